import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageFile

from assets.errors import DataError
from assets.index import SCHEMA, index_row, read_index
from assets.picture import Picture, PictureError
from assets.placement import Placement
from assets.sources.base import Sample

PLACE = Placement(0, 1, 2, 3, 4, 5)


def encoded(kind, array):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("side", [20, 700])
def test_rows_measure_every_format(kind, side):
    picture = np.full((side, side + 10, 3), 100, dtype=np.uint8)
    row = index_row(Sample("k", encoded(kind, picture), "jpg", "a", {}), "train", "train/00000.tar", PLACE)
    assert (row["width"], row["height"]) == (side + 10, side)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_no_pixel_is_decoded_for_a_row(kind, monkeypatch):
    image = encoded(kind, np.full((20, 30, 3), 100, dtype=np.uint8))
    monkeypatch.setattr(Picture, "pixels", lambda *_, **__: pytest.fail("decoded"))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    row = index_row(Sample("k", image, "jpg", "a", {}), "train", "train/00000.tar", PLACE)
    assert (row["width"], row["height"]) == (30, 20)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_picture_damaged_behind_its_header_has_the_size_that_its_header_says(kind):
    image = encoded(kind, np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8))
    with pytest.raises(PictureError):
        Picture(image[: len(image) // 2]).pixels()
    row = index_row(Sample("k", image[: len(image) // 2], "jpg", "a", {}), "train", "train/00000.tar", PLACE)
    assert (row["width"], row["height"]) == (80, 64)


def test_what_is_no_picture_gets_a_row_that_says_so():
    row = index_row(Sample("k", b"\xff\xd8 no picture", "jpg", "two  words", {}), "train", "train/00000.tar", PLACE)
    assert (row["width"], row["height"]) == (0, 0)
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
    assert "signature" not in kinds
