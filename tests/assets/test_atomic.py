import pytest

from assets.atomic import atomic_file, atomic_folder, write_json


def test_a_failed_write_leaves_the_old_file_and_no_remains(tmp_path):
    target = tmp_path / "facts.json"
    write_json(target, {"a": 1})
    with pytest.raises(RuntimeError), atomic_file(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == '{\n  "a": 1\n}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["facts.json"]


def test_json_bytes_do_not_depend_on_key_order(tmp_path):
    write_json(tmp_path / "one", {"b": 1, "a": 2})
    write_json(tmp_path / "two", {"a": 2, "b": 1})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_failed_folder_keeps_the_old_one_and_its_partial(tmp_path):
    target = tmp_path / "out"
    with atomic_folder(target) as folder:
        (folder / "old").touch()
    with pytest.raises(RuntimeError), atomic_folder(target) as folder:
        (folder / "new").touch()
        raise RuntimeError
    assert [path.name for path in target.iterdir()] == ["old"]
    assert (tmp_path / "out.partial" / "new").exists()


def test_a_finished_folder_replaces_the_old_one_whole(tmp_path):
    target = tmp_path / "out"
    for name in ("old", "new"):
        with atomic_folder(target) as folder:
            (folder / name).touch()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
