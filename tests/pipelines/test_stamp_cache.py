"""Code versions are remembered until something that they depend on changes."""

import os

import pytest

from pipelines import stamp_cache
from pipelines.stamp_cache import MEMORY, remembered_versions


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(stamp_cache, "ROOT", tmp_path)
    (tmp_path / "training").mkdir()
    (tmp_path / "training/loop.py").write_text("steps = 1\n")
    (tmp_path / "params.yaml").write_text("a: 1\n")
    return tmp_path


class Counted:
    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return {"stamps/x.json": str(self.calls)}


def test_nothing_changed_nothing_computed(root):
    compute = Counted()
    assert remembered_versions(root, compute) == remembered_versions(root, compute) == {"stamps/x.json": "1"}
    assert compute.calls == 1


@pytest.mark.parametrize("path", ["training/loop.py", "training/new.j2", "params.yaml", "baselines/d.json"])
def test_a_change_is_seen(root, path):
    compute = Counted()
    remembered_versions(root, compute)
    file = root / path
    file.parent.mkdir(exist_ok=True)
    # as long as before, so that only the time tells
    file.write_text("steps = 2\n" if file.name == "loop.py" else "a: 2\n")
    os.utime(file, ns=(1, 1))
    assert remembered_versions(root, compute) == {"stamps/x.json": "2"}


@pytest.mark.parametrize("text", ["", "{}", '{"state": 1}', "[]", '{"state": "x", "versions": 3}'])
def test_a_damaged_memory_is_written_anew(root, text):
    compute = Counted()
    remembered_versions(root, compute)
    (root / MEMORY).write_text(text)
    assert remembered_versions(root, compute) == {"stamps/x.json": "2"}
    assert remembered_versions(root, compute) == {"stamps/x.json": "2"}


def test_an_error_is_not_remembered(root):
    def fail():
        raise ValueError("no such section")

    for _ in range(2):
        with pytest.raises(ValueError, match="no such section"):
            remembered_versions(root, fail)
