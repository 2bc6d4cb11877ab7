"""What is known of every address so far: counted from all finished parts, so that nothing else has to be kept."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assets.sources.url_table.parts import Part
from assets.sources.url_table.reasons import is_transient


@dataclass(frozen=True, slots=True)
class Ledger:
    """The fate of all addresses that were ever tried, each once, sorted by hash.

    Attributes:
        url_ids: Hashes of the addresses, [n].
        part: Place in ``parts`` of the report that counts: the first success, or else the last failure, [n].
        row: Row of that report in its part, [n].
        reason: Place in ``reasons``, [n].
        tries: Reports that count as tries, [n].
        reasons: Reasons, ``""`` for downloaded.
        parts: The finished parts.
    """

    url_ids: NDArray[np.uint64]
    part: NDArray[np.int32]
    row: NDArray[np.int32]
    reason: NDArray[np.int32]
    tries: NDArray[np.int32]
    reasons: tuple[str, ...]
    parts: tuple[Part, ...]

    def find(self, url_ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the place of each address in the ledger, -1 for those never tried.

        Args:
            url_ids: Hashes of addresses, [m].
        """
        if not len(self.url_ids):
            return np.full(len(url_ids), -1)
        place = np.minimum(np.searchsorted(self.url_ids, url_ids), len(self.url_ids) - 1)
        return np.where(self.url_ids[place] == url_ids, place, -1)

    def to_try(self, url_ids: NDArray[np.uint64], most_tries: int) -> tuple[NDArray[np.uint64], bool]:
        """Return the addresses of the next pass: those not tried yet, or else those that deserve another try.

        Args:
            url_ids: Hashes of the wanted addresses, each once, [m].
            most_tries: How often an address is tried when the reason of its failure may go away.

        Returns:
            Their hashes, in the order given, and whether they are tried for the first time.
        """
        place = self.find(url_ids)
        known = place >= 0
        transient = np.array([is_transient(reason) for reason in self.reasons], bool)
        open_ones = np.ones(len(url_ids), bool)
        tries = np.zeros(len(url_ids), np.int32)
        open_ones[known] = transient[self.reason[place[known]]]
        tries[known] = self.tries[place[known]]
        if np.any(first := open_ones & (tries == 0)):
            return url_ids[first], True
        return url_ids[open_ones & (tries < most_tries)], False

    def counts(self, url_ids: NDArray[np.uint64]) -> Counter[str]:
        """Count addresses by reason; those never tried are left out.

        Args:
            url_ids: Hashes of addresses, [m].
        """
        place = self.find(url_ids)
        numbers = np.bincount(self.reason[place[place >= 0]], minlength=len(self.reasons)).tolist()
        return Counter({reason: number for reason, number in zip(self.reasons, numbers, strict=True) if number})


def read_ledger(parts: Sequence[Part]) -> Ledger:
    """Bring the reports of all parts together.

    Args:
        parts: The finished parts, oldest first.
    """
    ids, part, row, reason = [np.empty(0, np.uint64)], [_none()], [_none()], [_none()]
    tried: list[NDArray[np.int32]] = [_none()]
    reasons: dict[str, int] = {"": 0}
    for number, entry in enumerate(parts):
        table = entry.read(["url_id", "reason"])
        names = table["reason"].fill_null("").combine_chunks().dictionary_encode()
        codes = np.array([reasons.setdefault(name, len(reasons)) for name in names.dictionary.to_pylist()], np.int32)
        ids.append(table["url_id"].to_numpy())
        part.append(np.full(table.num_rows, number, np.int32))
        row.append(np.arange(table.num_rows, dtype=np.int32))
        reason.append(codes[names.indices.to_numpy()] if table.num_rows else _none())
        tried.append(np.full(table.num_rows, 0 if entry.stopped else 1, np.int32))
    known, of = np.unique(np.concatenate(ids), return_inverse=True)
    all_reasons = np.concatenate(reason)
    # of several reports of an address the last failure stands, unless one is a success: then the first of these
    last, success = np.zeros(len(known), np.int64), np.flatnonzero(all_reasons == 0)
    np.maximum.at(last, of, np.arange(len(of)))
    last[of[success[::-1]]] = success[::-1]
    tries = np.bincount(of, np.concatenate(tried), len(known)).astype(np.int32)
    return Ledger(
        known,
        np.concatenate(part)[last],
        np.concatenate(row)[last],
        all_reasons[last],
        tries,
        tuple(reasons),
        tuple(parts),
    )


def wanted_ids(url_ids: NDArray[np.uint64], faults: NDArray[np.int8]) -> NDArray[np.uint64]:
    """Return the addresses of rows without fault, each once, in the order of their first rows.

    Args:
        url_ids: Hash of each row's address, [n].
        faults: Fault of each row, 0 for none, [n].
    """
    fine = url_ids[faults == 0]
    _, first = np.unique(fine, return_index=True)
    return fine[np.sort(first)]


def matching(column: pa.Array, ids: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Say which entries of a column of hashes are among some sorted ones.

    Args:
        column: Hashes of addresses, [n].
        ids: Sorted hashes, [m].
    """
    values = column.to_numpy(zero_copy_only=False)
    place = np.minimum(np.searchsorted(ids, values), max(len(ids) - 1, 0))
    return ids[place] == values if len(ids) else np.zeros(len(values), bool)


def _none() -> NDArray[np.int32]:
    return np.empty(0, np.int32)
