"""The index in parts, so that no column of text is ever held whole: tens of millions of rows fit a small machine."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from assets.index import INDEX

BATCH_ROWS = 1 << 17


def batches(raw: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield columns of the index in parts of some ``BATCH_ROWS`` rows, whole row groups each.

    Args:
        raw: The raw data folder.
        columns: Their names.
    """
    with pq.ParquetFile(raw / INDEX) as file:
        groups: list[int] = []
        rows = 0
        for group in range(file.num_row_groups):
            groups.append(group)
            rows += file.metadata.row_group(group).num_rows
            if rows >= BATCH_ROWS or group == file.num_row_groups - 1:
                # one reader over all groups (iter_batches) would keep what it has read
                yield from file.read_row_groups(groups, columns=list(columns)).combine_chunks().to_batches()
                groups, rows = [], 0


def take_rows(raw: Path, columns: Sequence[str], rows: NDArray[np.int64]) -> pa.Table:
    """Read some rows of the index.

    Args:
        raw: The raw data folder.
        columns: The columns wanted.
        rows: In any order, also repeatedly, int64 [rows].

    Returns:
        As many rows, in the order given.
    """
    order = np.argsort(rows, kind="stable")
    wanted = rows[order]
    parts: list[pa.RecordBatch] = []
    start = 0
    for batch in batches(raw, columns):
        low, high = np.searchsorted(wanted, (start, start + batch.num_rows))
        parts.append(batch.take(pa.array(wanted[low:high] - start)))
        start += batch.num_rows
    places = np.empty(len(rows), dtype=np.int64)
    places[order] = np.arange(len(rows))
    return pa.Table.from_batches(parts).take(pa.array(places))


@dataclass(frozen=True, slots=True)
class SplitCodes:
    """The split of every row of the index, as a number.

    Attributes:
        names: Of the splits, in the order in which they appear in the index.
        codes: Places in ``names``, int16 [rows].
    """

    names: tuple[str, ...]
    codes: NDArray[np.int16]

    def among(self, wanted: Sequence[str]) -> NDArray[np.bool_]:
        """Say which rows belong to one of some splits, bool [rows]."""
        return np.array([name in wanted for name in self.names], dtype=bool)[self.codes]


def read_splits(raw: Path) -> SplitCodes:
    """Read the split of every row.

    Args:
        raw: The raw data folder.
    """
    numbers: dict[str, int] = {}
    parts: list[NDArray[np.int16]] = [np.empty(0, dtype=np.int16)]
    for batch in batches(raw, ["split"]):
        column = batch.column("split").dictionary_encode()
        here = [numbers.setdefault(name, len(numbers)) for name in column.dictionary.to_pylist()]
        parts.append(np.array(here, dtype=np.int16)[column.indices.to_numpy()])
    return SplitCodes(tuple(numbers), np.concatenate(parts))
