"""The kept pairs as WebDataset shards, for trainers that know no plans.

KEY.txt is the final caption, KEY.json what it was with ``original_caption`` beside it. A tar depends on its rows alone
and appears whole or not at all, so a killed run writes only those that are not there, to the same bytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import numpy as np
import pyarrow as pa

from assets.atomic import atomic_file
from assets.errors import DataError, message
from assets.members import locate_shard, open_shard
from assets.metadata import parse_metadata
from assets.progress import Stage
from assets.shard_cache import ShardCache
from assets.shards import ShardWriter
from assets.sources.base import Sample
from assets.worker_pool import run_tasks

SAMPLES_PER_SHARD = 10_000
COLUMNS = ("key", "shard", "image_offset", "image_size", "metadata_offset", "metadata_size", "extension", "caption")
FINAL = "final"
"""Column of the caption that replaces the one of the index, null where that stands."""


@dataclass(frozen=True, slots=True)
class _Place:
    """What every tar is made with."""

    raw: Path
    out: Path
    cache: ShardCache | None


@dataclass(frozen=True, slots=True)
class _Tar:
    """One tar to write: its number and its rows."""

    number: int
    rows: pa.Table


def write_shards(
    rows: pa.Table, raw: Path, out: Path, stage: Stage, workers: int = 0, cache: ShardCache | None = None
) -> int:
    """Write kept pairs as tars of ``SAMPLES_PER_SHARD`` in index order.

    Args:
        rows: ``COLUMNS`` of the index and ``FINAL``, one row per kept pair.
        raw: Folder of ``ingest``.
        out: Folder of the tars; those that are there already are left alone.
        stage: For progress.
        workers: Processes beside this one.
        cache: Knows the object store, for shards that lie in one.

    Returns:
        Number of tars in all.

    Raises:
        DataError: A picture is not where the index says.
    """
    out.mkdir(parents=True, exist_ok=True)
    for partial in out.glob(".*.partial"):
        partial.unlink()
    starts = range(0, len(rows), SAMPLES_PER_SHARD)
    missing = [number for number in range(len(starts)) if not _path(out, number).exists()]
    # taken, not sliced: a slice would be sent to a worker with the whole table behind it
    todo = [_Tar(number, _taken(rows, starts[number])) for number in missing]
    done = len(rows) - sum(len(tar.rows) for tar in todo)
    if done:
        stage.log.info("%s: resuming, %d of %d shards are there", stage.name, len(starts) - len(todo), len(starts))
    with stage.progress("write shards", len(rows), "pair", initial=done) as progress:
        for _, written in run_tasks(_write, _Place(raw, out, cache), todo, workers):
            progress.advance(written)
    return len(starts)


def _path(out: Path, number: int) -> Path:
    return out / f"{number:05d}.tar"


def _taken(rows: pa.Table, start: int) -> pa.Table:
    return rows.take(pa.array(np.arange(start, min(start + SAMPLES_PER_SHARD, len(rows)))))


def _write(place: _Place, tar: _Tar) -> int:
    path = _path(place.out, tar.number)
    with atomic_file(path) as temporary, temporary.open("wb", buffering=1 << 20) as stream:
        writer = ShardWriter(stream)
        for sample in _samples(place, tar.rows):
            writer.write(sample)
        writer.close()
    return len(tar.rows)


def _samples(place: _Place, rows: pa.Table) -> Iterator[Sample]:
    """Yield the samples of some rows; rows of one source shard stand together, so each is opened once."""
    codes = rows.column("shard").combine_chunks().dictionary_encode()
    bounds = np.flatnonzero(np.diff(codes.indices.to_numpy(), prepend=-1, append=-1))
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        shard = locate_shard(place.raw, rows.column("shard")[start].as_py())
        with open_shard(shard, place.cache) as stream:
            for row in rows.slice(start, stop - start).to_pylist():
                metadata = parse_metadata(_read(stream, shard, row["metadata_offset"], row["metadata_size"]))
                image = _read(stream, shard, row["image_offset"], row["image_size"])
                caption = row["caption"] if row[FINAL] is None else row[FINAL]
                facts = {**metadata, "original_caption": row["caption"]}
                yield Sample(row["key"], image, row["extension"], caption, facts)


def _read(stream: BufferedReader, shard: str, offset: int, size: int) -> bytes:
    stream.seek(offset)
    content = stream.read(size)
    if len(content) != size:
        what = f"shard {shard} ends inside a sample"
        raise DataError(message(what, len(content), f"{size} bytes at {offset}", "rerun ingest"))
    return content
