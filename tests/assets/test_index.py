import io
import itertools

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from assets.errors import DataError
from assets.index import SCHEMA, decode_grey, difference_hash, index_row, read_index
from assets.shards import Placement
from assets.sources.base import Sample

PLACE = Placement(0, 1, 2, 3, 4, 5)


def encoded(kind, array):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return stream.getvalue()


def slow_difference_hash(grey):
    height, width = grey.shape
    assert width % 9 == 0
    assert height % 8 == 0
    bits = ""
    for row in range(8):
        cells = [
            grey[row * height // 8 : (row + 1) * height // 8, column * width // 9 : (column + 1) * width // 9].mean()
            for column in range(9)
        ]
        bits += "".join("1" if a < b else "0" for a, b in itertools.pairwise(cells))
    return f"{int(bits, 2):016x}"


def test_difference_hash_agrees_with_a_slow_version():
    # cell means a whole grey level apart, so that rounding decides nothing
    cells = np.random.default_rng(0).permutation(72).reshape(8, 9).astype(np.uint8) * 3
    grey = np.kron(cells, np.ones((6, 5), dtype=np.uint8))
    assert difference_hash(grey) == slow_difference_hash(grey)


def test_difference_hash_ignores_brightness_and_sees_the_mirror_image():
    ramp = np.tile(np.arange(0, 180, 2, dtype=np.uint8), (16, 1))
    assert difference_hash(ramp) == "f" * 16
    assert difference_hash(ramp + 40) == "f" * 16
    assert difference_hash(ramp[:, ::-1]) == "0" * 16


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_grey_decoding_takes_every_format(kind):
    picture = np.full((20, 30, 3), 100, dtype=np.uint8)
    grey = decode_grey(encoded(kind, picture))
    assert grey.shape == (20, 30)
    assert abs(int(grey.mean()) - 100) <= 2


def test_a_damaged_picture_gets_a_row_that_says_so():
    row = index_row(Sample("k", b"\xff\xd8 no picture", "jpg", "two  words", {}), "train", "train/00000.tar", PLACE)
    assert (row["width"], row["height"], row["perceptual_hash"]) == (0, 0, "")
    assert row["caption_words"] == 2
    assert row["caption_chars"] == 10
    assert list(row) == SCHEMA.names


def test_index_of_a_data_folder_has_the_documented_schema(emoji_raw):
    index = read_index(emoji_raw)
    assert index.schema.equals(SCHEMA, check_metadata=False)
    assert len(set(index["key"].to_pylist())) == index.num_rows


def test_reading_the_index_can_choose_columns_and_split(emoji_raw):
    index = read_index(emoji_raw, columns=["key"], split="test")
    assert index.column_names == ["key"]
    assert index.num_rows == 20


def test_wrong_index_requests_are_explained(emoji_raw, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_index(tmp_path)
    with pytest.raises(DataError, match="'tset', wanted test, test_pairs"):
        read_index(emoji_raw, split="tset")
    (tmp_path / "index.parquet").write_bytes(b"rubbish")
    with pytest.raises(DataError, match="not readable as parquet"):
        read_index(tmp_path)


def test_index_types_are_those_of_the_architecture_page():
    kinds = {field.name: field.type for field in SCHEMA}
    assert kinds["offset"] == pa.int64()
    assert kinds["width"] == pa.int32()
    assert kinds["image_hash"] == pa.string()
