"""Table and download joined: where the picture of every row lies, or why there is none.

The samples stand in the order of the table, whatever the order they arrived in, so that a download that was killed and
resumed makes the same shards as one that was not.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from assets.atomic import atomic_file
from assets.sources.url_table.ledger import Ledger
from assets.sources.url_table.parts import Part
from assets.sources.url_table.rows import FAULTS, Rows, key_of

_PLACE = ["offset", "size", "original_width", "original_height", "sha256"]
SAMPLES = pa.schema(
    {"key": pa.string(), "url": pa.string(), "caption": pa.string(), "metadata": pa.string(), "tar": pa.string()}
    | {"offset": pa.int64(), "size": pa.int64(), "original_width": pa.int32(), "original_height": pa.int32()}
    | {"sha256": pa.string()}
)
FAILED = pa.schema(
    {"split": pa.string(), "row": pa.int64(), "key": pa.string(), "url": pa.string(), "reason": pa.string()}
)
"""One row per row of a table that has no picture: its place in the table, counted from 0 without the header."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """A split as its table and its download tell it.

    Attributes:
        samples: An Arrow file of schema ``SAMPLES``.
        failed: A parquet file of schema ``FAILED``.
        size: Number of samples.
        reasons: Reason -> number of rows without picture.
        digest: Names samples and failures.
    """

    samples: Path
    failed: Path
    size: int
    reasons: Mapping[str, int]
    digest: str

    def read(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
        """Yield the samples with start <= index < stop."""
        with pa.memory_map(str(self.samples)) as source:
            table = pa.ipc.open_file(source).read_all().slice(start, stop - start)
            for batch in table.to_batches():
                yield from batch.to_pylist()


def write_catalogue(split: str, rows: Rows, ledger: Ledger, folder: Path) -> Catalogue:
    """Join the rows of a table with the fate of their addresses.

    Args:
        split: Name of the split.
        rows: The table.
        ledger: What became of the addresses.
        folder: Where to write.
    """
    samples, failed = folder / "samples.arrow", folder / "failed.parquet"
    digest = hashlib.blake2b(rows.digest.encode(), digest_size=8)
    join = _Join(split, rows, ledger)
    size, reasons = 0, Counter[str]()
    with (
        atomic_file(samples) as samples_partial,
        atomic_file(failed) as failed_partial,
        pa.OSFile(str(samples_partial), "wb") as stream,
        pa.ipc.new_file(stream, SAMPLES) as found,
        pq.ParquetWriter(failed_partial, FAILED, compression="zstd") as lost,
    ):
        for begin, batch in rows.batches():
            downloaded, without = join.batch(begin, batch)
            found.write_table(downloaded)
            lost.write_table(without)
            size += downloaded.num_rows
            reasons.update(without["reason"].to_pylist())
            for column in (
                downloaded["key"],
                downloaded["sha256"],
                downloaded["size"],
                without["key"],
                without["reason"],
            ):
                digest.update(json.dumps(column.to_pylist()).encode())
    return Catalogue(samples, failed, size, dict(reasons.most_common()), digest.hexdigest())


@lru_cache(maxsize=128)
def _places(part: Part) -> pa.Table:
    """Return where the pictures of a part lie; parts of retries are wanted again and again."""
    return part.read(_PLACE)


class _Join:
    """Looks rows up in the ledger, a batch at a time, holding few of the parts' indices."""

    def __init__(self, split: str, rows: Rows, ledger: Ledger) -> None:
        self._split, self._rows, self._ledger = split, rows, ledger
        self._tars = [str(part.tar) for part in ledger.parts]

    def batch(self, begin: int, batch: pa.RecordBatch) -> tuple[pa.Table, pa.Table]:
        """Return the samples and the failures among some rows.

        Args:
            begin: Number of the first row.
            batch: The rows.
        """
        faults = self._rows.faults[begin : begin + batch.num_rows]
        place = self._ledger.find(batch.column("url_id").to_numpy(zero_copy_only=False))
        reason = np.where(place >= 0, self._ledger.reason[place], -1) if len(self._ledger.url_ids) else place
        there = (faults == 0) & (reason == 0)
        why = [
            FAULTS[fault] or self._ledger.reasons[code]
            for fault, code in zip(faults[~there].tolist(), reason[~there].tolist(), strict=True)
        ]
        return self._samples(batch.filter(pa.array(there)), place[there]), pa.table(
            {
                "split": pa.array([self._split] * len(why), pa.string()),
                "row": pa.array(begin + np.flatnonzero(~there), pa.int64()),
                "key": self._keys(batch.filter(pa.array(~there)), faults[~there]),
                "url": batch.column("url").filter(pa.array(~there)),
                "reason": pa.array(why, pa.string()),
            },
            FAILED,
        )

    def _keys(self, batch: pa.RecordBatch, faults: NDArray[np.int8] | None = None) -> pa.Array:
        """Return the keys; a malformed row has none."""
        ids = batch.column("pair_id").to_pylist()
        malformed = np.zeros(len(ids), bool) if faults is None else faults == 1
        return pa.array(
            [
                None if bad else key_of(pair_id, self._split)
                for pair_id, bad in zip(ids, malformed.tolist(), strict=True)
            ],
            pa.string(),
        )

    def _samples(self, batch: pa.RecordBatch, place: NDArray[np.int64]) -> pa.Table:
        part, row = self._ledger.part[place], self._ledger.row[place]
        # rows that are neighbours were mostly fetched together, so a batch touches few parts
        order = np.argsort(part, kind="stable")
        pieces = [
            _places(self._ledger.parts[number]).take(pa.array(row[order][part[order] == number]))
            for number in np.unique(part).tolist()
        ]
        back = np.argsort(order, kind="stable")
        places = pa.concat_tables(pieces).take(pa.array(back)) if pieces else None
        columns: dict[str, Any] = {name: batch.column(name) for name in ("url", "caption", "metadata")}
        columns |= {
            "key": self._keys(batch),
            "tar": pa.array([self._tars[number] for number in part.tolist()], pa.string()),
        }
        columns |= {
            name: places[name] if places is not None else pa.array([], SAMPLES.field(name).type) for name in _PLACE
        }
        return pa.table({name: columns[name] for name in SAMPLES.names}, SAMPLES)
