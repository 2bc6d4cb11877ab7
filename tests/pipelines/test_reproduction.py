"""A second clone gets every result from a real store, and no stage trains again."""

import re
import shutil
from pathlib import Path

import pytest

from assets.store import Store
from pipelines.dvc_remote import configure_dvc_remote
from tests.conftest import ONLY_SEAWEEDFS
from tests.project_copy import dvc, run

pytestmark = [pytest.mark.slow, ONLY_SEAWEEDFS]

REPOSITORY = Path(__file__).resolve().parents[2]
TRAINED = "work/trainer.pid"
"""Written by the toy's trainer when it really runs; no output of a stage."""


def commit(folder: Path) -> None:
    run(folder, "git", "add", "-A")
    run(folder, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "state")


def ran(output: str) -> set[str]:
    return set(re.findall(r"^Running stage '([^']+)'", output, re.MULTILINE))


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for part in ("data", "models", "runs", "reports")
        for path in (folder / part).rglob("*")
        if path.is_file()
    }


@pytest.fixture
def first(toy, object_store):
    """The clone that trained and pushed, and the store."""
    config = object_store.config.model_copy(update={"bucket": "reproduction"})
    store = Store(config, object_store.store.credentials)
    store.ensure_bucket()
    shutil.copy(REPOSITORY / ".dvc/config", toy.root / ".dvc/config")
    configure_dvc_remote(store.config, store.credentials, toy.root)
    dvc(toy.root, "repro")
    assert (toy.root / TRAINED).is_file()
    commit(toy.root)
    dvc(toy.root, "push", "--run-cache")
    return toy.root, store


def clone(first: Path, store: Store, folder: Path) -> Path:
    run(first, "git", "clone", "-q", str(first), str(folder))
    configure_dvc_remote(store.config, store.credentials, folder)
    return folder


def test_a_clone_with_the_lock_file_restores_everything(first, tmp_path):
    root, store = first
    second = clone(root, store, tmp_path / "second")

    dvc(second, "pull", "--run-cache")
    output = dvc(second, "repro")

    # code stamps are git-ignored and in no cache, so that stage is run; it takes no time
    assert ran(output) <= {"stamps"}, output
    assert not (second / TRAINED).exists()
    assert content(second) == content(root)
    assert (second / "dvc.lock").read_bytes() == (root / "dvc.lock").read_bytes()
    assert "up to date" in dvc(second, "status")
    assert run(second, "git", "status", "--short") == ""


def test_a_clone_without_the_lock_file_finds_all_runs_in_the_run_cache(first, tmp_path):
    root, store = first
    second = clone(root, store, tmp_path / "second")
    (second / "dvc.lock").unlink()

    dvc(second, "fetch", "--run-cache")
    output = dvc(second, "repro", "--pull")

    assert ran(output) <= {"stamps"}, output
    assert not (second / TRAINED).exists()
    assert content(second) == content(root)
    assert (second / "dvc.lock").read_bytes() == (root / "dvc.lock").read_bytes()
    assert "up to date" in dvc(second, "status")
