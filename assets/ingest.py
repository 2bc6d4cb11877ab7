"""Stage ``ingest``: write a source's samples as shards, index them, and publish ``data/raw/D``.

One shard is one task. A finished shard leaves a marker (its index rows) beside it, so a run that was killed redoes
only what has none. What a shard holds depends on the source's config and its index range, so neither the number of
processes nor the order in which they finish changes a byte.
"""

import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from assets.atomic import publish_folder
from assets.code_stamp import code_digest
from assets.errors import DataError, message
from assets.folder_lock import folder_lock
from assets.manifest import value_digest, write_manifest
from assets.progress import Stage
from assets.raw_folder import complete
from assets.shard_tasks import ShardTask, Workspace, plan, write_shard
from assets.shards import encode_metadata
from assets.sources import SOURCES
from assets.sources.base import Means, Sample, Source, SourceConfig, open_source
from assets.worker_pool import run_tasks

KIND = "raw"
_MEASURED_SAMPLES = 8
_TAR_BYTES = 3 * 512 + 3 * 256
_INDEX_BYTES = 430
_SPARE = 1.3


def ingest(
    name: str,
    config: SourceConfig,
    settings: Mapping[str, Any],
    samples_per_shard: int,
    out: Path,
    work: Path,
    workers: int,
    means: Means | None = None,
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
        means: What else this machine has for it.

    Raises:
        DataError: The disk is too small, or the source yields nothing for a split.
    """
    with Stage(f"ingest@{name}") as stage:
        source = open_source(config)
        means = means or Means()
        source.prepare(work / "download" / name, means, stage)
        splits = source.splits()
        code = code_digest("assets.ingest", SOURCES[config.kind].partition(":")[0])
        resolved = {"source": dict(settings), "samples_per_shard": samples_per_shard}
        inputs = dict(source.about().inputs)
        root = work / "ingest" / name / value_digest({"config": resolved, "code": code, "inputs": inputs})
        space = Workspace(root / "output", root / "markers", means.cache)
        tasks = plan(splits, samples_per_shard)
        with _only_run(root):
            todo = [task for task in tasks if not space.has(task)]
            _check_disk(source, todo, (root, out))
            if len(todo) < len(tasks):
                stage.log.info("resuming: %d of %d shards are there", len(tasks) - len(todo), len(tasks))
            _write_shards(stage, source, space, tasks, todo, workers)
            contents = complete(name, source, space, tasks, out)
            counts = {"samples": contents.samples.total(), "shards": len(tasks)}
            counts |= {f"samples_{split}": number for split, number in contents.samples.items()}
            write_manifest(space.output, KIND, name, resolved, counts, inputs, code, contents.external)
            _publish(space.output, out)
            shutil.rmtree(root)
        stage.send({"samples": counts["samples"], "shards": counts["shards"]}, force=True)


@contextmanager
def _only_run(root: Path) -> Generator[None]:
    """Hold the lock of a work folder, cleared of what a killed run left half-written."""
    with folder_lock(root, "ingest works in"):
        for partial in root.rglob(".*.partial"):
            partial.unlink()
        yield


def _write_shards(
    stage: Stage, source: Source, space: Workspace, tasks: list[ShardTask], todo: list[ShardTask], workers: int
) -> None:
    total = sum(task.stop - task.start for task in tasks)
    done = total - sum(task.stop - task.start for task in todo)
    with stage.progress("write", total, "sample", initial=done) as progress:
        for task, samples in run_tasks(_write, (source, space), todo, workers):
            progress.advance(samples, shard=task.name)


def _write(state: tuple[Source, Workspace], task: ShardTask) -> int:
    source, space = state
    return write_shard(source, task, space)


def _check_disk(source: Source, todo: list[ShardTask], places: tuple[Path, ...]) -> None:
    """Refuse to start a run that the disk cannot hold, judged by the first samples."""
    if not todo:
        return
    first = todo[0]
    sizes = [
        0 if sample.place else _tar_bytes(sample)
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


def _tar_bytes(sample: Sample) -> int:
    return len(sample.image) + len(sample.caption.encode()) + len(encode_metadata(sample.metadata)) + _TAR_BYTES


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _publish(folder: Path, out: Path) -> None:
    """Rename the folder into place, by way of a copy when ``out`` is on another disk."""
    if folder.stat().st_dev != _existing(out.parent).stat().st_dev:
        partial = out.with_name(f"{out.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(folder, partial)
        folder = partial
    publish_folder(folder, out)
