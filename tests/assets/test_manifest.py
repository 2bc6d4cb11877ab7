import pytest

from assets.errors import DataError
from assets.manifest import read_manifest, value_digest, verify_manifest, version_of, write_manifest


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("hello")
    (tmp_path / "b.txt").write_text("world")
    write_manifest(tmp_path, "raw", "toy", {"x": 1}, {"samples": 2}, {}, "code")
    return tmp_path


def test_an_untouched_folder_has_no_faults(folder):
    assert verify_manifest(folder) == []
    assert read_manifest(folder, "raw")["counts"] == {"samples": 2}


def test_every_kind_of_damage_is_named(folder):
    (folder / "b.txt").unlink()
    (folder / "c.txt").touch()
    (folder / "sub" / "a.txt").write_text("jello")
    assert verify_manifest(folder) == [
        "b.txt is missing",
        "c.txt is not in the manifest",
        "sub/a.txt has another checksum than the manifest",
    ]
    (folder / "sub" / "a.txt").write_text("hello!")
    assert "sub/a.txt has 6 bytes, manifest says 5" in verify_manifest(folder)


def test_the_version_follows_the_content(folder):
    before = version_of(folder)
    write_manifest(folder, "raw", "toy", {"x": 1}, {"samples": 2}, {}, "code")
    assert version_of(folder) == before
    (folder / "b.txt").write_text("other")
    write_manifest(folder, "raw", "toy", {"x": 1}, {"samples": 2}, {}, "code")
    assert version_of(folder) != before


def test_unfinished_and_foreign_folders_are_refused(folder, tmp_path):
    with pytest.raises(DataError, match=r"another kind, got 'raw', wanted model"):
        read_manifest(folder, "model")
    with pytest.raises(DataError, match=r"missing or unfinished.*dvc repro"):
        version_of(tmp_path / "nothing")


def test_a_value_digest_ignores_key_order_and_sees_values():
    assert value_digest({"a": 1, "b": 2}) == value_digest({"b": 2, "a": 1}) != value_digest({"a": 1, "b": 3})
