"""accepted.parquet and rejects.parquet, written in parts."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from assets.atomic import atomic_file
from assets.index_parts import batches
from assets.validation.decisions import ACCEPTED, REASONS, Decisions

_ACCEPTED = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("key", "split")])
_REJECTS = pa.schema([pa.field(name, pa.string()) for name in ("key", "split", "shard", "reason", "value")])
_GROUP_ROWS = 1 << 16


def write_tables(folder: Path, raw: Path, decisions: Decisions) -> None:
    """Write both tables, in index order.

    Args:
        folder: Where to.
        raw: The raw data folder.
        decisions: About every row.
    """
    with ExitStack() as stack:
        accepted = _Writer(stack, folder / "accepted.parquet", _ACCEPTED)
        rejects = _Writer(stack, folder / "rejects.parquet", _REJECTS)
        for batch, rows, reasons in _decided(raw, decisions):
            kept = reasons == ACCEPTED
            accepted.add(batch.select(_ACCEPTED.names).take(pa.array(np.flatnonzero(kept))))
            lost = np.flatnonzero(~kept)
            names = np.array(REASONS, dtype=object)[reasons[lost].astype(np.int64) - 1]
            columns = batch.take(pa.array(lost)).columns
            values = decisions.values_of(rows[lost])
            rejects.add(pa.RecordBatch.from_arrays([*columns, pa.array(names, pa.string()), values], schema=_REJECTS))
        accepted.close()
        rejects.close()


def _decided(raw: Path, decisions: Decisions) -> Iterator[tuple[pa.RecordBatch, np.ndarray, np.ndarray]]:
    """Yield key, split and shard of the rows in parts, the rows' numbers and their reasons."""
    start = 0
    for batch in batches(raw, ["key", "split", "shard"]):
        stop = start + batch.num_rows
        yield batch, np.arange(start, stop), decisions.reasons[start:stop]
        start = stop


class _Writer:
    """A parquet file under way, in row groups of equal length, so that its bytes depend on its rows alone."""

    def __init__(self, stack: ExitStack, path: Path, schema: pa.Schema) -> None:
        temporary = stack.enter_context(atomic_file(path))
        self._file = stack.enter_context(pq.ParquetWriter(temporary, schema, compression="zstd"))
        self._pending = schema.empty_table()

    def add(self, batch: pa.RecordBatch) -> None:
        self._pending = pa.concat_tables([self._pending, pa.Table.from_batches([batch.cast(self._pending.schema)])])
        whole = self._pending.num_rows // _GROUP_ROWS * _GROUP_ROWS
        if whole:
            self._file.write_table(self._pending.slice(0, whole), row_group_size=_GROUP_ROWS)
            self._pending = self._pending.slice(whole)

    def close(self) -> None:
        self._file.write_table(self._pending, row_group_size=_GROUP_ROWS)
        self._file.close()
