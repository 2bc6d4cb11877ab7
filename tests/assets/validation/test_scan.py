import io
import zlib

import numpy as np
import pytest
from PIL import Image

from assets.errors import DataError
from assets.index import INDEX
from assets.picture import Picture
from assets.progress import Stage
from assets.validation import scan as module
from assets.validation.decisions import check_schema, shards_in_order
from assets.validation.scan import NO_BYTES, TOO_LARGE, UNDECODABLE, check_files, measure, scan
from assets.validation.signature import signature
from assets.validation.traits import traits_of


@pytest.fixture
def raw(make_raw, picture, sample):
    return make_raw({"train": [sample(f"t{number}", picture(number)) for number in range(5)]})


def run(raw, work, workers=0, signed=True):
    shards = shards_in_order(raw, check_files(raw))
    return scan(Stage("validate@toy"), raw, shards, work, workers, signed)


def contrast(image):
    return measure(image, None)


def test_contrast_tells_blank_broken_and_real_pictures_apart(picture):
    assert contrast(picture(1)) > 20
    assert contrast(picture(1, kind="png")) > 20
    assert contrast(picture(1, blank=True)) < 1
    assert contrast(b"") == NO_BYTES
    assert contrast(b"no picture") == contrast(picture(1, kind="png")[:60]) == UNDECODABLE


def test_contrast_is_the_standard_deviation_of_all_pixels(monkeypatch):
    monkeypatch.setattr(module, "_PIXELS_AT_ONCE", 100)
    pixels = np.random.default_rng(0).integers(90, 140, (37, 41, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    assert contrast(stream.getvalue()) == pytest.approx(pixels.reshape(-1, 3).std(axis=0).max(), abs=0.006)


def test_a_picture_of_too_many_pixels_is_told_apart_from_a_damaged_one():
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (20_000).to_bytes(4, "big") * 2 + b"\1\0\0\0\0"
    crc = zlib.crc32(header[12:]).to_bytes(4, "big")
    assert contrast(header + crc + b"\0\0\0\0IDAT\x35\xaf\x06\x1e") == TOO_LARGE


def test_a_drawing_that_differs_from_its_ground_in_colour_alone_is_not_blank():
    pixels = np.full((64, 64, 3), (142, 93, 69), dtype=np.uint8)
    pixels[20:40, 20:40] = (224, 50, 71)  # nearly the same brightness
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "jpeg", quality=95)
    assert contrast(stream.getvalue()) > 20


def test_every_row_gets_a_contrast_and_a_signature_in_index_order(raw, picture, tmp_path):
    assert shards_in_order(raw, check_files(raw)) == {
        "train/00000.tar": 2,
        "train/00001.tar": 2,
        "train/00002.tar": 1,
    }
    measures = run(raw, tmp_path / "work")
    assert measures.contrast().tolist() == [contrast(picture(number)) for number in range(5)]
    wanted = np.stack([signature(Picture(picture(number)).pixels()) for number in range(5)])
    assert np.array_equal(measures.signatures(np.arange(5)), wanted)
    assert np.array_equal(measures.traits(np.arange(5)).signs, traits_of(wanted).signs)


def test_what_cannot_be_decoded_has_an_empty_signature(make_raw, picture, sample, tmp_path):
    broken = picture(1)[:-200]
    raw = make_raw({"train": [sample("good", picture(1)), sample("broken", broken), sample("none", b"")]})
    measures = run(raw, tmp_path / "work")
    assert measures.contrast()[1:].tolist() == [UNDECODABLE, NO_BYTES]
    assert measures.signatures(np.arange(3)).any(axis=1).tolist() == [True, False, False]


def test_one_decoding_gives_contrast_and_signature(raw, tmp_path, monkeypatch):
    calls = []
    decode = Picture.pixels
    monkeypatch.setattr(Picture, "pixels", lambda *a, **k: calls.append(a) or decode(*a, **k))
    run(raw, tmp_path / "work")
    assert len(calls) == 5


def test_signatures_are_made_when_a_rule_first_wants_them_and_kept_when_none_does(raw, tmp_path, monkeypatch):
    seen = []
    read = module.scan_shard
    monkeypatch.setattr(module, "scan_shard", lambda task: seen.append(task.shard) or read(task))
    plain = run(raw, tmp_path / "work", signed=False)
    assert not list((tmp_path / "work").rglob("*.npy"))
    signed = run(raw, tmp_path / "work", signed=True)
    assert len(seen) == 6
    assert np.array_equal(signed.contrast(), plain.contrast())
    assert signed.signatures(np.arange(5)).any(axis=1).all()
    run(raw, tmp_path / "work", signed=False)
    assert len(seen) == 6 and len(list((tmp_path / "work").rglob("*.npy"))) == 3


@pytest.mark.slow
def test_more_processes_find_the_same(raw, tmp_path):
    one, two = run(raw, tmp_path / "one"), run(raw, tmp_path / "two", workers=2)
    assert one.contrast().tolist() == two.contrast().tolist()
    assert np.array_equal(one.signatures(np.arange(5)), two.signatures(np.arange(5)))


def test_a_killed_scan_goes_on_where_it_stopped(raw, tmp_path, monkeypatch):
    read = module.scan_shard

    def dies(task):
        if task.shard == "train/00001.tar":
            raise KeyboardInterrupt
        return read(task)

    monkeypatch.setattr(module, "scan_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        run(raw, tmp_path / "work")
    seen = []
    monkeypatch.setattr(module, "scan_shard", lambda task: seen.append(task.shard) or read(task))
    run(raw, tmp_path / "work")
    assert seen == ["train/00001.tar", "train/00002.tar"]


def test_a_shard_written_anew_is_read_anew(raw, tmp_path, monkeypatch):
    run(raw, tmp_path / "work")
    shard = raw / "train/00000.tar"
    content = bytearray(shard.read_bytes())
    content[600] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"train/00000\.tar is damaged.*ingest"):
        run(raw, tmp_path / "work")


def test_a_missing_shard_is_named(raw):
    (raw / "train/00001.tar").unlink()
    with pytest.raises(DataError, match=r"train/00001\.tar is missing.*ingest"):
        check_files(raw)


def test_a_truncated_shard_is_named(raw):
    shard = raw / "train/00001.tar"
    shard.write_bytes(shard.read_bytes()[:512])
    with pytest.raises(DataError, match=r"train/00001\.tar has 512 bytes, manifest says"):
        check_files(raw)


def test_a_changed_index_is_found_by_its_checksum(raw):
    (raw / "dataset.json").write_text((raw / "dataset.json").read_text().replace("toy", "toz"))
    with pytest.raises(DataError, match=r"dataset\.json has another checksum"):
        check_files(raw)


def test_an_unfinished_folder_is_refused(raw):
    (raw / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"has no manifest\.json"):
        check_files(raw)


def test_an_index_with_other_columns_is_refused(raw):
    import pyarrow.parquet as pq

    table = pq.read_table(raw / INDEX)
    pq.write_table(table.drop_columns(["caption_hash"]), raw / INDEX)
    with pytest.raises(DataError, match="caption_hash missing"):
        check_schema(raw)


def test_an_index_that_points_at_other_bytes_is_refused(raw, tmp_path):
    import pyarrow.parquet as pq

    shards = shards_in_order(raw, check_files(raw))
    table = pq.read_table(raw / INDEX).to_pandas()
    table.loc[3, "image_offset"] += 1
    table.to_parquet(raw / INDEX)
    with pytest.raises(DataError, match=r"sample t3 in shard .*points at other bytes"):
        scan(Stage("validate@toy"), raw, shards, tmp_path / "work", 0, True)
