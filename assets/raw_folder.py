"""What ``ingest`` writes beside the shards: index.parquet, dataset.json and the data card."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from assets.atomic import atomic_file, write_json
from assets.data_card import write_card
from assets.errors import DataError, message
from assets.index import INDEX, ROW_GROUP, SCHEMA
from assets.manifest import FileFacts
from assets.members import read_member
from assets.shard_download import is_url
from assets.shard_tasks import ShardTask, Workspace, read_marker
from assets.sources.base import Source

DATASET = "dataset.json"


@dataclass(slots=True)
class Contents:
    """What the finished tasks amount to.

    Attributes:
        samples: Split -> number of samples.
        concepts: Concept id -> number of train samples that show it.
        external: Shards outside the data folder, as the index names them.
    """

    samples: Counter[str] = field(default_factory=Counter[str])
    concepts: Counter[str] = field(default_factory=Counter[str])
    external: dict[str, FileFacts] = field(default_factory=dict[str, FileFacts])


def complete(name: str, source: Source, space: Workspace, tasks: list[ShardTask], out: Path) -> Contents:
    """Write everything beside the shards, the manifest excepted.

    Args:
        name: Name of the data set.
        source: Where the samples came from.
        space: Holds the shards and a marker per task.
        tasks: All tasks, in order.
        out: Where the folder will be published; shards outside it are named as seen from there.

    Returns:
        What is in it.

    Raises:
        DataError: A split has no samples.
    """
    contents = Contents()
    splits = source.splits()
    _write_index(space.output / INDEX, _tables(space, tasks, out, contents))
    if empty := [split.name for split in splits if not contents.samples[split.name]]:
        raise DataError(message(f"{name}: no samples in {', '.join(empty)}", fix="look at the source of the data set"))
    about = source.about()
    facts: dict[str, Any] = {
        "name": name,
        "licence": about.licence,
        "attribution": list(about.attribution),
        "languages": list(about.languages),
        "splits": {
            split.name: {
                "role": split.role,
                "domain": split.domain,
                "style": split.style,
                "samples": contents.samples[split.name],
                "listed": split.size,
            }
            for split in splits
        },
        "classes": [asdict(entry) for entry in source.classes(contents.concepts)],
    }
    write_json(space.output / DATASET, facts)
    source.write_beside(space.output)

    def read(shard: str, offset: int, size: int) -> bytes:
        # the published folder need not be there yet, so that ".." could not be followed from it
        elsewhere = shard in contents.external and not is_url(shard)
        name = os.path.abspath(out / shard) if elsewhere else shard  # noqa: PTH100 Path.resolve would follow links
        return read_member(space.output, name, offset, size, space.cache)

    write_card(space.output, about, facts, contents.concepts, contents.external, read)
    return contents


def _tables(space: Workspace, tasks: Iterable[ShardTask], out: Path, contents: Contents) -> Iterator[pa.Table]:
    """Yield the index rows of each task, and count what they are."""
    for task in tasks:
        marker = read_marker(space.marker(task))
        contents.samples[task.split] += marker.table.num_rows
        if task.split == "train":
            contents.concepts.update(marker.concepts)
        contents.external |= {_from_folder(shard, out): facts for shard, facts in marker.external.items()}
        yield _relocated(marker.table, out) if task.in_place else marker.table


def _write_index(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write tables as one parquet file without holding more than a row group and a table."""
    with (
        atomic_file(path) as temporary,
        pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer,
    ):
        waiting: list[pa.Table] = []
        for table in tables:
            waiting.append(table)
            if sum(part.num_rows for part in waiting) >= ROW_GROUP:
                rows = pa.concat_tables(waiting)
                whole = rows.num_rows // ROW_GROUP * ROW_GROUP
                writer.write_table(rows.slice(0, whole), row_group_size=ROW_GROUP)
                waiting = [rows.slice(whole)]
        writer.write_table(pa.concat_tables([SCHEMA.empty_table(), *waiting]), row_group_size=ROW_GROUP)


def _relocated(table: pa.Table, out: Path) -> pa.Table:
    """Return index rows with their shards named as seen from the published folder."""
    names = table["shard"].combine_chunks().dictionary_encode()
    seen = pa.array([_from_folder(name, out) for name in names.dictionary.to_pylist()], pa.string())
    place = table.schema.get_field_index("shard")
    return table.set_column(place, table.schema.field(place), seen.take(names.indices))


def _from_folder(shard: str, out: Path) -> str:
    """Return how a shard is named in an index: a relative path as seen from the folder, others as they are."""
    return shard if is_url(shard) or Path(shard).is_absolute() else Path(os.path.relpath(shard, out)).as_posix()
