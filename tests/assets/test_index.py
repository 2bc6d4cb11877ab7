import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from assets.errors import DataError
from assets.index import SCHEMA, index_row, read_index, signature
from assets.shards import Placement
from assets.sources.base import Sample

PLACE = Placement(0, 1, 2, 3, 4, 5)


def encoded(kind, array):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return stream.getvalue()


def test_signature_keeps_flat_colours_and_the_order_of_rows_and_channels():
    picture = np.zeros((36, 54, 3), dtype=np.uint8)
    picture[:18] = (10, 20, 30)
    picture[18:] = (40, 50, 60)
    small = np.frombuffer(signature(picture), dtype=np.uint8).reshape(18, 18, 3)
    assert (small[:8] == (10, 20, 30)).all()
    assert (small[10:] == (40, 50, 60)).all()


def test_signature_weighs_pixels_by_a_triangle_two_cells_wide():
    column = np.random.default_rng(0).integers(0, 256, 18 * 8).astype(np.uint8)
    got = np.frombuffer(signature(np.tile(column[:, None, None], (1, 36, 3))), dtype=np.uint8).reshape(18, 18, 3)
    centres = np.arange(18 * 8) + 0.5
    for cell in range(1, 17):
        weights = np.maximum(0, 1 - abs(centres - (cell + 0.5) * 8) / 8)
        assert abs(int(got[cell, 5, 0]) - (weights * column).sum() / weights.sum()) <= 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("side", [20, 700])
def test_rows_measure_every_format(kind, side):
    picture = np.full((side, side + 10, 3), 100, dtype=np.uint8)
    row = index_row(Sample("k", encoded(kind, picture), "jpg", "a", {}), "train", "train/00000.tar", PLACE)
    assert (row["width"], row["height"]) == (side + 10, side)
    small = np.frombuffer(row["signature"], dtype=np.uint8)
    assert len(small) == 18 * 18 * 3
    assert abs(small.astype(int) - 100).max() <= 2


def test_a_damaged_picture_gets_a_row_that_says_so():
    row = index_row(Sample("k", b"\xff\xd8 no picture", "jpg", "two  words", {}), "train", "train/00000.tar", PLACE)
    assert (row["width"], row["height"], row["signature"]) == (0, 0, b"")
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
    assert kinds["signature"] == pa.binary()
