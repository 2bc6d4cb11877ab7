"""Stage ``ingest``: write a source's samples as shards, index them, and publish ``data/raw/D``.

One shard is one task. A finished shard leaves a marker (its index rows) beside it, so a run that was killed redoes
only what has none. What a shard holds depends on the source's config and its index range, so neither the number of
processes nor the order in which they finish changes a byte.
"""

import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from assets.atomic import atomic_file, publish_folder, write_json
from assets.code_stamp import code_digest
from assets.data_card import write_card
from assets.errors import DataError, message
from assets.index import INDEX, index_row, rows_table, write_table
from assets.manifest import value_digest, write_manifest
from assets.progress import Stage
from assets.shards import ShardWriter, encode_metadata
from assets.sources import SOURCES
from assets.sources.base import Source, SourceConfig, Split, open_source

KIND = "raw"
DATASET = "dataset.json"
_MEASURED_SAMPLES = 8
_TAR_BYTES = 3 * 512 + 3 * 256
_INDEX_BYTES = 1400
_SPARE = 1.3
_TALLY = b"concepts"


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard to write.

    Attributes:
        split: Name of its split.
        number: Its number in the split.
        start: First index.
        stop: One past the last index.
    """

    split: str
    number: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """File name relative to the data folder."""
        return f"{self.split}/{self.number:05d}.tar"


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where a run works until it publishes.

    Attributes:
        output: Becomes the published folder.
        markers: One parquet of index rows per finished shard.
    """

    output: Path
    markers: Path

    def marker(self, task: ShardTask) -> Path:
        """Return the file that says a shard is finished."""
        return self.markers / task.split / f"{task.number:05d}.parquet"

    def has(self, task: ShardTask) -> bool:
        """Say whether a shard is finished; its marker outlives it when a run dies while publishing."""
        return self.marker(task).is_file() and (self.output / task.name).is_file()


def ingest(
    name: str,
    config: SourceConfig,
    settings: Mapping[str, Any],
    samples_per_shard: int,
    out: Path,
    work: Path,
    workers: int,
) -> None:
    """Make one raw data folder.

    Args:
        name: Name of the data set.
        config: The source's config.
        settings: The same as plain data, for the manifest.
        samples_per_shard: Length of a shard's index range.
        out: The folder to publish, replaced when it exists.
        work: Root of the unfinished runs; this one resumes under ``work/ingest/<name>/<digest>``.
        workers: Processes beside this one; 0 works here.

    Raises:
        DataError: The disk is too small, or the source yields nothing for a split.
    """
    with Stage(f"ingest@{name}") as stage:
        source = open_source(config)
        splits = source.splits()
        code = code_digest("assets.ingest", SOURCES[config.kind].partition(":")[0])
        resolved = {"source": dict(settings), "samples_per_shard": samples_per_shard}
        inputs = dict(source.about().inputs)
        root = work / "ingest" / name / value_digest({"config": resolved, "code": code, "inputs": inputs})
        space = Workspace(root / "output", root / "markers")
        tasks = plan(splits, samples_per_shard)
        with _only_run(root):
            todo = [task for task in tasks if not space.has(task)]
            _check_disk(source, todo, (root, out))
            if len(todo) < len(tasks):
                stage.log.info("resuming: %d of %d shards are there", len(tasks) - len(todo), len(tasks))
            _write_shards(stage, source, space, tasks, todo, workers)
            counts = _finish(name, source, space, tasks)
            write_manifest(space.output, KIND, name, resolved, counts, inputs, code)
            _publish(space.output, out)
            shutil.rmtree(root)
        stage.send({"samples": counts["samples"], "shards": counts["shards"]}, force=True)


@contextmanager
def _only_run(root: Path) -> Generator[None]:
    """Hold the lock of a work folder, cleared of what a killed run left half-written."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(message(f"another ingest works in {root}", fix="wait for it to end")) from error
        for partial in root.rglob(".*.partial"):
            partial.unlink()
        yield


def plan(splits: Iterable[Split], samples_per_shard: int) -> list[ShardTask]:
    """Cut the splits into shards of equal length, the last of each split shorter.

    Args:
        splits: The splits in order.
        samples_per_shard: Length of a shard's index range.
    """
    return [
        ShardTask(split.name, number, start, min(start + samples_per_shard, split.size))
        for split in splits
        for number, start in enumerate(range(0, split.size, samples_per_shard))
    ]


def write_shard(source: Source, task: ShardTask, space: Workspace) -> int:
    """Write one shard and then its marker.

    Args:
        source: Where the samples come from.
        task: Which ones.
        space: Where to put them.

    Returns:
        Number of samples written.
    """
    rows: list[dict[str, Any]] = []
    tally: Counter[str] = Counter()
    with atomic_file(space.output / task.name) as temporary, temporary.open("wb", buffering=1 << 20) as stream:
        writer = ShardWriter(stream)
        for sample in source.samples(task.split, task.start, task.stop):
            rows.append(index_row(sample, task.split, task.name, writer.write(sample)))
            tally.update(sample.concepts)
        writer.close()
    table = rows_table(rows)
    marked = table.replace_schema_metadata({_TALLY: json.dumps(tally, sort_keys=True).encode()})
    write_table(marked, space.marker(task))
    return len(rows)


_worker_source: Source | None = None
_stopping: Event | None = None


def _start_worker(source: Source) -> None:
    """Keep the source for all shards of this process; the sprites and names it loads are then loaded once."""
    global _worker_source
    _worker_source = source


def _start_process(source: Source, stopping: Event) -> None:
    # Ctrl-C reaches the whole group; only the main process answers it, and lets the shards under way be finished
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    global _stopping
    _stopping = stopping
    _start_worker(source)


def _die_with_parent() -> None:
    """End this process when the main one is killed; the pool's queue would keep it waiting for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(task: ShardTask, space: Workspace) -> int:
    assert _worker_source is not None
    if _stopping is not None and _stopping.is_set():
        return 0
    return write_shard(_worker_source, task, space)


def _write_shards(
    stage: Stage, source: Source, space: Workspace, tasks: list[ShardTask], todo: list[ShardTask], workers: int
) -> None:
    total = sum(task.stop - task.start for task in tasks)
    done = total - sum(task.stop - task.start for task in todo)
    with stage.progress("write", total, "sample", initial=done) as progress:
        for samples, shard in _results(source, space, todo, min(workers, len(todo))):
            progress.advance(samples, shard=shard)


def _results(source: Source, space: Workspace, todo: list[ShardTask], workers: int) -> Iterator[tuple[int, str]]:
    """Yield (samples, name) of each shard as it is finished."""
    if workers == 0:
        _start_worker(source)
        for task in todo:
            yield _work(task, space), task.name
        return
    with _pool(source, workers) as pool:
        futures = {pool.submit(_work, task, space): task for task in todo}
        try:
            for future in as_completed(futures):
                yield future.result(), futures[future].name
        except BrokenProcessPool as error:
            raise DataError(
                message(
                    "a worker process was killed, perhaps for want of memory",
                    fix="run the same command again to go on, with a smaller machine.workers",
                )
            ) from error


@contextmanager
def _pool(source: Source, workers: int) -> Generator[ProcessPoolExecutor]:
    # spawn, because a fork of a process that has started threads (pyarrow, BLAS) may hang
    context = multiprocessing.get_context("spawn")
    stopping = context.Event()
    pool = ProcessPoolExecutor(workers, context, _start_process, (source, stopping))
    try:
        yield pool
    finally:
        # the pool has handed out more tasks than it can cancel
        stopping.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _check_disk(source: Source, todo: list[ShardTask], places: tuple[Path, ...]) -> None:
    """Refuse to start a run that the disk cannot hold, judged by the first samples."""
    if not todo:
        return
    first = todo[0]
    sizes = [
        len(sample.image) + len(sample.caption.encode()) + len(encode_metadata(sample.metadata)) + _TAR_BYTES
        for sample in source.samples(first.split, first.start, min(first.stop, first.start + _MEASURED_SAMPLES))
    ]
    if not sizes:
        return
    samples = sum(task.stop - task.start for task in todo)
    needed = int(_SPARE * samples * (sum(sizes) / len(sizes) + _INDEX_BYTES))
    for place in places:
        free = shutil.disk_usage(_existing(place)).free
        if free < needed:
            raise DataError(
                message(
                    f"not enough disk space for {samples} samples under {place.parent}",
                    f"{free / 1e6:.0f} MB free",
                    f"about {needed / 1e6:.0f} MB",
                    "free some space, or make the data set smaller",
                )
            )


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _finish(name: str, source: Source, space: Workspace, tasks: list[ShardTask]) -> dict[str, int]:
    """Write everything beside the shards and return the counts for the manifest."""
    tables: list[pa.Table] = []
    tally: dict[str, Counter[str]] = {}
    for task in tasks:
        table = pq.read_table(space.marker(task))
        counts = tally.setdefault(task.split, Counter())
        counts.update(json.loads(table.schema.metadata[_TALLY]))
        tables.append(table.replace_schema_metadata(None))
    index = pa.concat_tables(tables)
    samples = Counter(index["split"].to_pylist())
    if empty := [split.name for split in source.splits() if not samples[split.name]]:
        raise DataError(message(f"{name}: no samples in {', '.join(empty)}", fix="look at the source of the data set"))
    write_table(index, space.output / INDEX)
    about = source.about()
    facts = {
        "name": name,
        "licence": about.licence,
        "attribution": list(about.attribution),
        "languages": list(about.languages),
        "splits": {
            split.name: {
                "role": split.role,
                "domain": split.domain,
                "style": split.style,
                "samples": samples[split.name],
            }
            for split in source.splits()
        },
        "classes": [asdict(entry) for entry in source.classes(tally.get("train", Counter()))],
    }
    write_json(space.output / DATASET, facts)
    write_card(space.output, about, facts, index, tally.get("train", Counter()))
    return {"samples": index.num_rows, "shards": len(tasks), **{f"samples_{key}": samples[key] for key in samples}}


def _publish(folder: Path, out: Path) -> None:
    """Rename the folder into place, by way of a copy when ``out`` is on another disk."""
    if folder.stat().st_dev != _existing(out.parent).stat().st_dev:
        partial = out.with_name(f"{out.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(folder, partial)
        folder = partial
    publish_folder(folder, out)
