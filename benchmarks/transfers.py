"""Measure ``dvc push`` and ``dvc pull`` of 3,000 shards against MinIO and SeaweedFS, and what a kill half-way costs.

Run ``python benchmarks/transfers.py`` in the repository root; it writes benchmarks/results/transfers.json, with the
servers for which a program is there (``make minio``). Both run on this machine: they share its cores and disk with DVC
and have no network in between, so the rates bound DVC's and the server's own cost. Shards are random bytes of 64 to
200 KiB under our own DVC settings. ``kills``: transfers ended with SIGKILL once half of the shards have arrived, then
run again; ``moved_twice`` counts shards that were there at the kill and that the server dates later, or whose file in
the cache is another one, afterwards. ``jobs``: fewer shards, to an empty bucket and an empty clone, with other numbers
of transfers at once. Every pull ends with a comparison of all bytes.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from record import record

from assets.store import Store, StoreConfig, open_store
from pipelines import store_server
from pipelines.dvc_remote import configure_dvc_remote

REPOSITORY = Path(__file__).resolve().parents[1]
KIB = 1 << 10
SMALLEST, LARGEST = 64 * KIB, 200 * KIB
JOBS = (4, 8, 16, 32)
OURS = 8
PREFIX = "dvc/files/"


@dataclass(frozen=True)
class Site:
    """A server with the project whose data go there.

    Attributes:
        root: Holds ``.store``.
        project: The git and DVC repository with the data.
        config: The server; its bucket changes from one push to the next.
    """

    root: Path
    project: Path
    config: StoreConfig

    @property
    def store(self) -> Store:
        """A connection to the bucket."""
        return open_store(self.config, self.root / ".store")

    def objects(self) -> dict[str, Any]:
        """Name of every object in the bucket -> the server's date."""
        listing = self.store.client.list_objects(self.config.bucket, prefix=PREFIX, recursive=True)
        return {item.object_name or "": item.last_modified for item in listing}

    def connect(self, project: Path) -> Path:
        """Make sure that the bucket is there and point a project's DVC at it."""
        self.store.ensure_bucket()
        configure_dvc_remote(self.config, self.store.credentials, project)
        return project

    def clone(self, name: str) -> Path:
        """Clone the project, so that it can pull from the bucket."""
        folder = self.root / name
        git(self.root, "clone", "-q", str(self.project), name)
        return self.connect(folder)


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=bench", "-c", "user.email=bench@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True)


def dvc_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dvc", *arguments]


def dvc(folder: Path, *arguments: str) -> float:
    """Run DVC and return its seconds, start of the program included."""
    begin = time.perf_counter()
    subprocess.run(dvc_command(*arguments), cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def make_project(root: Path, shards: int) -> Path:
    project = root / "project"
    (project / "data" / "train").mkdir(parents=True)
    random = np.random.default_rng(0)
    for number, size in enumerate(random.integers(SMALLEST, LARGEST, shards)):
        (project / "data" / "train" / f"{number:05d}.tar").write_bytes(random.bytes(int(size)))
    git(project, "init", "-q")
    dvc(project, "init", "-q")
    shutil.copy(REPOSITORY / ".dvc" / "config", project / ".dvc" / "config")
    (project / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
    dvc(project, "add", "-q", "data")
    git(project, "add", ".")
    git(project, "commit", "-qm", "shards")
    return project


def cached(project: Path) -> dict[str, tuple[int, int]]:
    """Path of every finished object in the cache -> inode and date."""
    found = {}
    for path in (project / ".dvc" / "cache" / "files").glob("md5/??/*"):
        if len(path.name.removesuffix(".dir")) == 30:
            status = path.stat()
            found[str(path)] = (status.st_ino, status.st_mtime_ns)
    return found


def kill_when(half: Callable[[], bool], folder: Path, *arguments: str) -> float:
    """Start DVC, end it with SIGKILL as soon as ``half`` says so, and return the seconds it had."""
    begin = time.perf_counter()
    process = subprocess.Popen(dvc_command(*arguments), cwd=folder, stdout=subprocess.DEVNULL, start_new_session=True)
    while not half():
        assert process.poll() is None, "dvc ended before it could be killed; take more shards"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return time.perf_counter() - begin


def interrupted(
    folder: Path, command: str, here: Callable[[], dict[str, Any]], count: Callable[[], int], shards: int
) -> dict[str, float]:
    """Kill a transfer half-way, run it again and tell what was moved twice."""
    seconds = kill_when(lambda: count() >= shards // 2, folder, command, "-q")
    before = here()
    resumed = dvc(folder, command, "-q")
    after = here()
    assert len(after) >= shards, f"{len(after)} of {shards} shards are there after {command}"
    return {
        "seconds_to_kill": round(seconds, 1),
        "shards_at_kill": len(before),
        "seconds_to_finish": round(resumed, 1),
        "moved_twice": sum(after[name] != date for name, date in before.items()),
    }


def verify(project: Path, clone: Path) -> None:
    names = sorted(path.name for path in (project / "data" / "train").iterdir())
    assert names == sorted(path.name for path in (clone / "data" / "train").iterdir())
    for name in names:
        assert (clone / "data" / "train" / name).read_bytes() == (project / "data" / "train" / name).read_bytes(), name


def start(server: str, root: Path) -> StoreConfig:
    (root / ".bin").symlink_to(REPOSITORY / ".bin")
    port = next(port for port in range(29500, 32000, 17) if store_server.port_is_free(port))
    values = {"server": server, "endpoint": f"http://127.0.0.1:{port}", "bucket": "bench", "region": "us-east-1"}
    config = StoreConfig.model_validate(values)
    store_server.start(config, root)
    return config


def measure_kills(root: Path, config: StoreConfig, shards: int) -> dict[str, Any]:
    """Push, be killed, go on; pull, be killed, go on."""
    project = make_project(root / "kills", shards)
    site = Site(root, project, config.model_copy(update={"bucket": "killed"}))
    site.connect(project)
    push = interrupted(project, "push", site.objects, lambda: len(site.objects()), shards)
    nothing = dvc(project, "push", "-q")
    clone = site.clone("killed")
    pull = interrupted(clone, "pull", lambda: cached(clone), lambda: len(cached(clone)), shards)
    verify(project, clone)
    left = [path for path in (clone / ".dvc" / "cache").rglob("*.tmp") if path.is_file()]
    shutil.rmtree(clone)
    return {
        "killed_push": push,
        "killed_pull": {**pull, "unfinished_files_left": len(left)},
        "push_of_nothing_seconds": round(nothing, 1),
    }


def measure_jobs(root: Path, config: StoreConfig, shards: int, jobs: tuple[int, ...]) -> dict[str, Any]:
    """Push and pull undisturbed with different numbers of transfers at once."""
    project = make_project(root / "jobs", shards)
    push, pull = {}, {}
    for number in jobs:
        site = Site(root, project, config.model_copy(update={"bucket": f"jobs-{number}"}))
        site.connect(project)
        push[str(number)] = round(shards / dvc(project, "push", "-q", "-j", str(number)), 1)
        clone = site.clone(f"clone-{number}")
        pull[str(number)] = round(shards / dvc(clone, "pull", "-q", "-j", str(number)), 1)
        verify(project, clone)
        shutil.rmtree(clone)
    return {
        "shards": shards,
        "push_shards_per_second_by_jobs": push,
        "pull_shards_per_second_by_jobs": pull,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="about a minute, to see that it runs; nothing is written")
    small = parser.parse_args().small
    shards, swept, jobs = (300, 100, (OURS,)) if small else (3000, 600, JOBS)
    servers = ["seaweedfs", *(["minio"] if (REPOSITORY / ".bin" / "minio").is_file() else [])]
    result: dict[str, Any] = {"shards": shards, "shard_kib": [SMALLEST // KIB, LARGEST // KIB], "jobs_of_ours": OURS}
    measures: dict[str, Callable[[Path, StoreConfig], dict[str, Any]]] = {
        "kills": lambda root, config: measure_kills(root, config, shards),
        "jobs": lambda root, config: measure_jobs(root, config, swept, jobs),
    }
    for name, measure in measures.items():
        result[name] = {}
        for server in servers:
            with tempfile.TemporaryDirectory() as folder:
                config = start(server, Path(folder))
                try:
                    result[name][server] = measure(Path(folder), config)
                finally:
                    store_server.stop(config, Path(folder))
            if not small:
                record("transfers", result)
    if small:
        print(result)


if __name__ == "__main__":
    main()
