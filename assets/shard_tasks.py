"""One shard of ``ingest`` as a task: write it, or index a tar where it lies, and leave a marker that says so.

The marker holds the shard's index rows and what else its samples say, so that a run that was killed redoes only shards
without one. What a task makes depends on the source's config and the task's index range, and on nothing else.
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from assets.atomic import atomic_file
from assets.index import index_row, rows_table, write_table
from assets.manifest import FileFacts, stream_facts
from assets.members import open_shard
from assets.shard_cache import ShardCache
from assets.shards import ShardWriter
from assets.sources.base import Source, Split

_FACTS = b"facts"


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard to write, or one tar to index.

    Attributes:
        split: Name of its split.
        number: Its number in the split.
        start: First index.
        stop: One past the last index.
        in_place: Whether its samples lie in a tar already and are only indexed.
    """

    split: str
    number: int
    start: int
    stop: int
    in_place: bool = False

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
        cache: Knows the object store, for tars that lie there.
    """

    output: Path
    markers: Path
    cache: ShardCache | None = None

    def marker(self, task: ShardTask) -> Path:
        """Return the file that says a shard is finished."""
        return self.markers / task.split / f"{task.number:05d}.parquet"

    def has(self, task: ShardTask) -> bool:
        """Say whether a shard is finished; its marker outlives it when a run dies while publishing."""
        return self.marker(task).is_file() and (task.in_place or (self.output / task.name).is_file())


@dataclass(frozen=True, slots=True)
class Marker:
    """What a finished task has left.

    Attributes:
        table: Its index rows; those of samples in place name the shard as the source does.
        concepts: Concept id -> number of its samples that show it.
        external: Shards outside the data folder that its rows name.
    """

    table: pa.Table
    concepts: dict[str, int]
    external: dict[str, FileFacts]


def plan(splits: Iterable[Split], samples_per_shard: int) -> list[ShardTask]:
    """Cut the splits into shards of equal length, the last of each split shorter; or into the tars they lie in.

    Args:
        splits: The splits in order.
        samples_per_shard: Length of a shard's index range, where shards are written.
    """
    tasks: list[ShardTask] = []
    for split in splits:
        ends = split.cuts or (*range(samples_per_shard, split.size, samples_per_shard), split.size)
        ranges = [(start, stop) for start, stop in itertools.pairwise((0, *ends)) if stop > start]
        tasks += [ShardTask(split.name, number, *cut, bool(split.cuts)) for number, cut in enumerate(ranges)]
    return tasks


def write_shard(source: Source, task: ShardTask, space: Workspace) -> int:
    """Write one shard, or index one tar where it lies, and then its marker.

    Args:
        source: Where the samples come from.
        task: Which ones.
        space: Where to put them.

    Returns:
        Number of samples.
    """
    tally: Counter[str] = Counter()
    rows = list(_indexed(source, task, tally) if task.in_place else _written(source, task, space, tally))
    external: dict[str, FileFacts] = {}
    for shard in sorted({row["shard"] for row in rows}) if task.in_place else ():
        with open_shard(shard, space.cache) as stream:
            external[shard] = stream_facts(stream)
    facts = json.dumps({"concepts": dict(sorted(tally.items())), "external": external})
    write_table(rows_table(rows).replace_schema_metadata({_FACTS: facts.encode()}), space.marker(task))
    return len(rows)


def read_marker(path: Path) -> Marker:
    """Read what :func:`write_shard` left.

    Args:
        path: See :meth:`Workspace.marker`.
    """
    table = pq.read_table(path)
    facts: dict[str, Any] = json.loads(table.schema.metadata[_FACTS])
    return Marker(table.replace_schema_metadata(None), facts["concepts"], facts["external"])


def _written(source: Source, task: ShardTask, space: Workspace, tally: Counter[str]) -> Iterator[dict[str, Any]]:
    """Write the samples of a task into a shard and yield their rows."""
    with atomic_file(space.output / task.name) as temporary, temporary.open("wb", buffering=1 << 20) as stream:
        writer = ShardWriter(stream)
        for sample in source.samples(task.split, task.start, task.stop):
            tally.update(sample.concepts)
            yield index_row(sample, task.split, task.name, writer.write(sample))
        writer.close()


def _indexed(source: Source, task: ShardTask, tally: Counter[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of samples that stay where they are, with the shard as the source names it."""
    for sample in source.samples(task.split, task.start, task.stop):
        assert sample.place is not None, "a split with cuts hands out samples with places"
        tally.update(sample.concepts)
        yield index_row(sample, task.split, sample.place.shard, sample.place.place)
