"""The importer writes what the reader reads, the same bytes every time, and says what is missing."""

import json

import pytest

from assets.errors import ConfigError, DataError
from assets.manifest import verify_manifest
from evaluation.external.importer import Order, import_set, list_presets
from evaluation.external.layout import read_set
from tests.evaluation.external.sets import COLOURS, picture


def class_folders(root, names=COLOURS):
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for n in range(2):
            (root / name / f"{n}.png").write_bytes(picture(number + 6 * n))
    return root


def test_a_folder_of_class_folders_becomes_a_set_and_the_same_bytes_again(tmp_path):
    root = class_folders(tmp_path / "Two Colours", (*COLOURS[:5], "light_purple"))
    out = import_set(Order(None, root, out=tmp_path / "a"))
    found = read_set(out, "colours", "test")
    assert sorted(set(found.classes)) == sorted((*COLOURS[:5], "light purple"))
    assert found.templates == ("a photo of a {c}.",)
    assert len(found.keys) == 12
    assert verify_manifest(out) == []
    place = found.pictures[0]
    assert place.shard.read_bytes()[place.offset : place.offset + place.size] == (root / "blue/0.png").read_bytes()
    again = import_set(Order(None, root, out=tmp_path / "b"))
    assert (again / "test/0.tar").read_bytes() == (out / "test/0.tar").read_bytes()


def test_folders_without_pictures_or_of_one_name_are_refused(tmp_path):
    class_folders(tmp_path / "a", ("red", "green"))
    (tmp_path / "a/blue").mkdir()
    with pytest.raises(DataError, match="class 'blue' has no picture"):
        import_set(Order(None, tmp_path / "a", out=tmp_path / "out"))
    class_folders(tmp_path / "b", ("red fox", "Red_Fox"))
    with pytest.raises(DataError, match="two folders stand for one class name"):
        import_set(Order(None, tmp_path / "b", out=tmp_path / "out"))


def test_urban_pairs_are_joined_by_number(tmp_path):
    for part in ("image", "caption"):
        (tmp_path / "root" / part).mkdir(parents=True)
    for n in (1, 2, 10):
        (tmp_path / f"root/image/{n}.jpg").write_bytes(picture(n, "JPEG"))
        (tmp_path / f"root/caption/{n}.txt").write_text(f"Long text {n}.\nIt goes on.\n")
    found = read_set(import_set(Order("urban1k", tmp_path / "root", out=tmp_path / "out")), "urban1k", "test")
    assert found.captions == tuple((f"Long text {n}. It goes on.",) for n in (1, 2, 10))
    (tmp_path / "root/image/2.jpg").unlink()
    with pytest.raises(DataError, match="1 pairs have no picture, the first is 2"):
        import_set(Order("urban1k", tmp_path / "root", out=tmp_path / "out"))


def test_missing_data_unknown_sets_and_languages_are_told(tmp_path):
    pytest.importorskip("clip_benchmark")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/something").touch()
    with pytest.raises(DataError, match=r"lacks cifar-10-batches-py for cifar10; put it there: https"):
        import_set(Order("cifar10", tmp_path / "root", out=tmp_path / "out"))
    with pytest.raises(ConfigError, match="cifar10"):
        import_set(Order("cifar11", tmp_path / "root"))
    with pytest.raises(ConfigError, match="language of crossmodal3600, got 'xx', wanted one of ar, bn"):
        import_set(Order("crossmodal3600", tmp_path / "root", "xx"))
    assert "vtab_dtd" in list_presets()


def test_crossmodal_captions_come_in_the_language_asked_for(tmp_path):
    pytest.importorskip("clip_benchmark")
    root = tmp_path / "root/xm3600"
    (root / "images").mkdir(parents=True)
    lines = []
    for n in range(3):
        (root / f"images/{n}.jpg").write_bytes(picture(n, "JPEG"))
        lines.append(json.dumps({"image/key": str(n), "de": {"caption": [f"Bild {n}"]}}))
    (root / "captions.jsonl").write_text("\n".join(lines))
    out = import_set(Order("crossmodal3600", tmp_path / "root", "de", tmp_path / "out"))
    assert read_set(out, "x", "test").captions == (("Bild 0",), ("Bild 1",), ("Bild 2",))
