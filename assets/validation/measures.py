"""What the scan measured, shard by shard: a marker of a few dozen bytes per sample, and its signatures beside it.

A marker ``00000.parquet`` has one row per sample in index order: ``contrast``, and if pictures are compared the traits
``signs`` and ``moments``. The signatures, 972 bytes each, lie in ``00000.npy``, whence any of them is read alone. The
marker is written last, so that it says that both are whole.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from assets.errors import DataError, message
from assets.index import write_table
from assets.row_files import write_array
from assets.validation.signature import SIGNATURE_BYTES
from assets.validation.traits import NUM_MOMENTS, Traits, traits_of

_STAMP = b"mtime_ns"
_TRAITS = ("signs", "moments")
_ROWS_PER_READ = 1 << 8
_MOST_SKIPPED = 8  # reading so many signatures in between costs as much as another read


def write_marker(
    marker: Path, stamp: bytes, contrast: NDArray[np.float32], signatures: NDArray[np.uint8] | None
) -> None:
    """Write what was measured in one shard.

    Args:
        marker: The parquet file to write.
        stamp: Ties it to the file that was read.
        contrast: float32 [rows].
        signatures: uint8 [rows, 972]; None if pictures are not compared.
    """
    columns: dict[str, pa.Array] = {"contrast": pa.array(contrast)}
    if signatures is not None:
        write_array(_signatures_of(marker), signatures)
        traits = traits_of(signatures)
        moments = pa.FixedSizeListArray.from_arrays(pa.array(traits.moments.reshape(-1)), NUM_MOMENTS)
        columns |= {"signs": pa.array(traits.signs), "moments": moments}
    write_table(pa.table(columns).replace_schema_metadata({_STAMP: stamp}), marker)


def is_marked(marker: Path, stamp: bytes, signed: bool) -> bool:
    """Say whether a shard was measured before.

    Args:
        marker: Its marker, which may be missing.
        stamp: What it must have been written with.
        signed: Whether signatures must be there.
    """
    if not marker.is_file():
        return False
    schema = pq.read_schema(marker)
    if (schema.metadata or {}).get(_STAMP) != stamp:
        return False
    return not signed or (set(_TRAITS) <= set(schema.names) and _signatures_of(marker).is_file())


def _signatures_of(marker: Path) -> Path:
    return marker.with_suffix(".npy")


@dataclass(frozen=True, slots=True)
class Measures:
    """The markers of a data set.

    Attributes:
        markers: Of its shards, in index order.
        ends: Rows in the shards up to and with each, int64 [shards].
    """

    markers: tuple[Path, ...]
    ends: NDArray[np.int64]

    @property
    def num_rows(self) -> int:
        """Number of rows of the index."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def contrast(self) -> NDArray[np.float32]:
        """Read the contrasts of all rows, or what stands in their place (``assets.validation.scan``)."""
        contrast = np.empty(self.num_rows, dtype=np.float32)
        for rows, table in self._tables("contrast"):
            contrast[rows] = table.column("contrast").to_numpy()
        return contrast

    def traits(self, rows: NDArray[np.int64]) -> Traits:
        """Read the traits of some rows.

        Args:
            rows: In any order without repeats, int64 [rows].

        Returns:
            Theirs, in the order given.
        """
        place = np.full(self.num_rows, -1, dtype=np.int32)
        place[rows] = np.arange(len(rows))
        moments = np.empty((len(rows), NUM_MOMENTS), dtype=np.float32)
        signs = np.empty(len(rows), dtype=np.uint64)
        for here, table in self._tables(*_TRAITS):
            wanted = place[here] >= 0
            to = place[here][wanted]
            signs[to] = table.column("signs").to_numpy()[wanted]
            values = table.column("moments").combine_chunks().flatten().to_numpy()
            moments[to] = values.reshape(-1, NUM_MOMENTS)[wanted]
        return Traits(moments, signs)

    def signatures(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read the signatures of some rows; that of a picture that cannot be decoded is all 0.

        Args:
            rows: Ascending, int64 [rows].

        Returns:
            uint8 [rows, 972].
        """
        wanted = np.empty((len(rows), SIGNATURE_BYTES), dtype=np.uint8)
        bounds = np.concatenate([[0], self.ends])
        places = np.searchsorted(rows, bounds)
        for number in np.flatnonzero(np.diff(places)).tolist():
            part = slice(places[number], places[number + 1])
            count = int(bounds[number + 1] - bounds[number])
            _read_rows(_signatures_of(self.markers[number]), count, rows[part] - bounds[number], wanted[part])
        return wanted

    def _tables(self, *columns: str) -> Iterator[tuple[slice, pa.Table]]:
        """Yield the rows of each shard and its marker."""
        start = 0
        for marker, stop in zip(self.markers, self.ends.tolist(), strict=True):
            table = pq.read_table(marker, columns=list(columns))
            if table.num_rows != stop - start:
                raise _damaged(marker, f"{table.num_rows} rows", f"{stop - start} as in the index")
            yield slice(start, stop), table
            start = stop


def _read_rows(path: Path, count: int, rows: NDArray[np.int64], wanted: NDArray[np.uint8]) -> None:
    """Fill ``wanted`` with some rows of a file of ``count`` signatures, neighbouring ones in one read."""
    with path.open("rb", buffering=0) as stream:
        descriptor = stream.fileno()
        begin = os.fstat(descriptor).st_size - count * SIGNATURE_BYTES
        breaks = np.flatnonzero(np.diff(rows) > _MOST_SKIPPED) + 1
        for low, high in zip([0, *breaks.tolist()], [*breaks.tolist(), len(rows)], strict=True):
            for start in range(low, high, _ROWS_PER_READ):
                part = rows[start : min(start + _ROWS_PER_READ, high)]
                first, length = int(part[0]), int(part[-1] - part[0] + 1)
                content = os.pread(descriptor, length * SIGNATURE_BYTES, begin + first * SIGNATURE_BYTES)
                if begin < 0 or len(content) != length * SIGNATURE_BYTES:
                    raise _damaged(path, f"too short for {count} signatures")
                read = np.frombuffer(content, np.uint8).reshape(length, SIGNATURE_BYTES)
                wanted[start : start + len(part)] = read[part - first]


def _damaged(path: Path, got: str, wanted: str | None = None) -> DataError:
    return DataError(message(f"{path} is damaged", got, wanted, fix="remove it and run validate again"))
