"""DVC's transfers under our own remote settings, killed half-way and run again, for real against both servers."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from assets.store import Store
from pipelines.dvc_command import stage_environment
from pipelines.dvc_remote import configure_dvc_remote
from tests.project_copy import dvc, run

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
SHARDS, THIRD = 240, 80
PREFIX = "dvc/files/md5/"


def kill_when(enough: Callable[[], bool], folder: Path, *arguments: str) -> None:
    """Start DVC and end it, without a word to it, once ``enough`` has arrived."""
    command = [sys.executable, "-m", "dvc", *arguments]
    process = subprocess.Popen(command, cwd=folder, env=stage_environment(), start_new_session=True)
    until = time.monotonic() + 120
    while not enough():
        assert process.poll() is None, "dvc was done before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def connect(folder: Path, store: Store) -> Path:
    configure_dvc_remote(store.config, store.credentials, folder)
    return folder


def uploads(store: Store) -> list[str]:
    """Name of every object, as often as it was written: the bucket keeps versions."""
    listing = store.client.list_objects(store.config.bucket, PREFIX, recursive=True, include_version=True)
    return [item.object_name or "" for item in listing]


def arrived(folder: Path) -> set[str]:
    """Object name of every shard that a clone's cache has whole."""
    cache = folder / ".dvc/cache/files/md5"
    return {f"{PREFIX}{path.relative_to(cache).as_posix()}" for path in cache.glob("??/*") if not path.suffix}


@pytest.fixture(scope="module")
def project(object_store, tmp_path_factory):
    """A project of many shards with its own bucket that counts what is written."""
    folder = tmp_path_factory.mktemp("project")
    config = object_store.config.model_copy(update={"bucket": "transfers"})
    store = Store(config, object_store.store.credentials)
    store.ensure_bucket()
    store.set_versioning(True)
    (folder / "data/train").mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(SHARDS):
        (folder / f"data/train/{number:05d}.tar").write_bytes(random.bytes(20_000 + number))
    run(folder, "git", "init", "-q")
    dvc(folder, "init", "-q")
    shutil.copy(REPOSITORY / ".dvc/config", folder / ".dvc/config")
    dvc(folder, "add", "-q", "data")
    run(folder, "git", "add", ".")
    run(folder, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "shards")
    return connect(folder, store), store


def test_a_killed_push_goes_on_where_it_was_and_ends_with_the_directory(project):
    folder, store = project
    kill_when(lambda: len(uploads(store)) >= THIRD, folder, "push")
    before = uploads(store)
    assert THIRD <= len(before) < SHARDS
    assert not any(name.endswith(".dir") for name in before), "others would take the directory for complete"

    output = dvc(folder, "push")

    after = uploads(store)
    assert f"{SHARDS + 1 - len(before)} files pushed" in output
    assert len(after) == len(set(after)) == SHARDS + 1, "a shard was sent twice"
    assert set(before) < set(after)
    assert "Everything is up to date" in dvc(folder, "push")
    assert len(uploads(store)) == SHARDS + 1


def test_a_killed_pull_fetches_only_what_is_missing(project, network, tmp_path):
    folder, store = project
    dvc(folder, "push")
    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "-q", str(folder), str(clone))
    shutil.copy(REPOSITORY / ".dvc/config", clone / ".dvc/config")
    watched = store.config.model_copy(update={"endpoint": f"http://127.0.0.1:{network.port}"})
    connect(clone, Store(watched, store.credentials))
    kill_when(lambda: len(arrived(clone)) >= THIRD, clone, "pull")
    before = arrived(clone)
    assert THIRD <= len(before) < SHARDS
    network.gets.clear()

    dvc(clone, "pull")

    fetched = [path.partition(f"/{store.config.bucket}/")[2] for path in network.gets if f"/{PREFIX}" in path]
    shards = [name for name in fetched if not name.endswith(".dir")]
    assert len(shards) == len(set(shards)) == SHARDS - len(before)
    assert not before & set(shards), "a shard was fetched twice"
    for original in (folder / "data/train").iterdir():
        assert (clone / "data/train" / original.name).read_bytes() == original.read_bytes()
    assert "up to date" in dvc(clone, "status")
