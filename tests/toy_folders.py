"""Small folders like those of ``ingest`` and ``validate``, for tests of what reads them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from assets.index import index_row, rows_table, write_table
from assets.shards import ShardWriter
from assets.sources.base import Sample


def write_shards(raw: Path, split: str, shards: Iterable[Iterable[Sample]]) -> list[dict[str, Any]]:
    """Write the shards of a split and the index; return the index rows."""
    (raw / split).mkdir(parents=True)
    rows = []
    for number, samples in enumerate(shards):
        name = f"{split}/{number:05d}.tar"
        with (raw / name).open("wb") as stream:
            writer = ShardWriter(stream)
            rows += [index_row(sample, split, name, writer.write(sample)) for sample in samples]
            writer.close()
    write_table(rows_table(rows), raw / "index.parquet")
    return rows


def accept(valid: Path, keys: Sequence[str], split: str) -> None:
    """Write which samples validation accepted."""
    valid.mkdir()
    pq.write_table(pa.table({"key": keys, "split": [split] * len(keys)}), valid / "accepted.parquet")
