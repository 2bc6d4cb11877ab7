"""What a pass over the rows of a split shows: which can be used, how large their pictures are, what their keys are."""

import hashlib
import json
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from assets.errors import DataError, message
from assets.progress import setup_logging
from assets.sources.described.keys import in_split, is_plain, shorten
from assets.sources.described.labels import ClassLookup
from assets.sources.described.source import SplitListing
from assets.sources.huggingface.config import HuggingFaceSplit
from assets.sources.huggingface.layout import Layout, captions_of, cells_of
from assets.sources.huggingface.pictures import NONE

_NO_PICTURE, _NO_CAPTION, _NO_LABEL, _NO_KEY = "no picture", "no caption", "no label", "no value in the column of keys"
_NEITHER, _NOT_UTF8, _LARGE = "neither picture nor caption", "the caption is not UTF-8", "pictures of over 1 GiB"
_LARGEST_PICTURE = 1 << 30
_SECONDS_BETWEEN_LINES = 10.0
_NAMELESS = "row"


@dataclass(frozen=True, slots=True)
class Listing(SplitListing):
    """What the rows of a split are; its digest names all sizes, captions, labels and keys.

    Attributes:
        gaps: Numbers of the rows that are left out, int64, rising.
        sizes: Size of the picture of each row, int32; ``NONE`` without.
    """

    gaps: np.ndarray
    sizes: np.ndarray

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return the numbers of the rows with start <= index < stop, int64."""
        indices = np.arange(start, max(stop, start))
        # before the k-th gap lie gaps[k] - k rows that count
        return indices + np.searchsorted(self.gaps - np.arange(len(self.gaps)), indices, side="right")


class Labels:
    """Numbers of classes by the cells of a column of labels.

    Args:
        names: Name of class 0, 1, ..
        split: Name of the split, for errors.
    """

    def __init__(self, names: list[str], split: str) -> None:
        self._count, self._split = len(names), split
        self._lookup = ClassLookup(names, split)
        self._known: dict[str, int] = {}

    def class_id(self, cell: str | int | None) -> int | None:
        """Return a class, None where there is no label: an empty cell, or a negative number.

        Args:
            cell: A class's number or name. A number is never looked for among the names.

        Raises:
            DataError: There is no such class.
        """
        if isinstance(cell, int):
            if cell >= self._count:
                wanted = f"0 to {self._count - 1}"
                what = f"a label of split {self._split} names no class"
                raise DataError(message(what, cell, wanted, "correct splits.*.classes, or columns.label"))
            return cell if cell >= 0 else None
        if not cell or not cell.strip():
            return None
        if cell not in self._known:
            self._known[cell] = self._lookup.class_id(cell)
        return self._known[cell]


def row_key(row: int, cell: str | int | None, split: str | None) -> str:
    """Return the key of a row.

    Args:
        row: Its number.
        cell: Its cell in the column of keys, None if there is none.
        split: Name of the split, None for train.

    Returns:
        The cell if it can be a key as it is, or else its readable end, ``~`` and a hash; without a cell the number in
        nine digits. Splits other than train stand in front, followed by ``+``.
    """
    name = f"{row:09d}" if cell is None else str(cell)
    return in_split(name if is_plain(name) else shorten(name, name, _NAMELESS), split)


class Scan:
    """A listing under way.

    Args:
        name: Name of the split.
        split: Its settings.
        layout: Its columns.
        labels: Reads its labels, None if it has none.
        total: Number of its rows.
    """

    def __init__(self, name: str, split: HuggingFaceSplit, layout: Layout, labels: Labels | None, total: int) -> None:
        self._name, self._split, self._layout, self._labels, self._total = name, split, layout, labels, total
        self._left_out, self._incomplete = Counter[str](), Counter[str]()
        self._gaps: list[int] = []
        self._hashes = np.empty(total if layout.key else 0, np.uint64)
        self._sizes = np.empty(total, np.int32)
        self._digest = hashlib.blake2b(digest_size=8)
        self._said = time.monotonic()

    def add(self, start: int, rows: pa.Table, language: str) -> None:
        """Take in some rows.

        Args:
            start: Number of the first.
            rows: The rows that follow those added before.
            language: Code of the main caption.
        """
        layout = self._layout
        images = rows[layout.image]
        sizes = layout.pictures.sizes(images)
        layout.pictures.feed(self._digest, images, sizes)
        captions = captions_of(rows, layout, self._split.further_captions == "keep")
        keys, cells = cells_of(rows, layout.key), cells_of(rows, layout.label)
        labels = [self._labels.class_id(cell) if self._labels else None for cell in cells]
        facts = list(zip(captions, labels, keys, strict=True))
        self._digest.update(json.dumps(facts, ensure_ascii=True).encode())
        for place, (spoken, label, key) in enumerate(facts):
            row = start + place
            fault = self._fault(int(sizes[place]), spoken, label, key, language)
            if fault is not None:
                self._left_out[fault] += 1
                self._gaps.append(row)
            elif layout.key:
                self._hashes[row] = _hash(row_key(row, key, None))
        self._sizes[start : start + rows.num_rows] = np.minimum(sizes, _LARGEST_PICTURE)
        if time.monotonic() - self._said > _SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            setup_logging().info("listing %s: %d of %d rows", self._name, start + rows.num_rows, self._total)

    def _fault(
        self, size: int, spoken: dict[str, str] | None, label: int | None, key: str | int | None, language: str
    ) -> str | None:
        """Say why a row is left out, None if it is not; count what it lacks if it is handed out all the same."""
        if size > _LARGEST_PICTURE:
            return _LARGE
        if spoken is None:
            return _NOT_UTF8
        if self._layout.key and (key is None or key == ""):
            return _NO_KEY
        if self._labels is not None:
            return _NO_PICTURE if size == NONE else _NO_LABEL if label is None else None
        pictured, worded = size != NONE, language in spoken
        if not pictured and not worded:
            return _NEITHER
        if not (pictured and worded):
            self._incomplete[_NO_CAPTION if pictured else _NO_PICTURE] += 1
        return None

    def listing(self) -> Listing:
        """Return what all rows have shown.

        Raises:
            DataError: No row can be used, or two have one key.
        """
        size = self._total - len(self._gaps)
        counts = dict(sorted(self._left_out.items())), dict(sorted(self._incomplete.items()))
        if size == self._incomplete.total():
            faulty = ", ".join(f"{count} with {why}" for reasons in counts for why, count in reasons.items())
            wanted = f"pictures with {'captions' if self._labels is None else 'labels'}"
            what = f"{self._split.data} (split {self._name}) has no usable row"
            raise DataError(message(what, faulty or "no rows", wanted, "correct splits.*"))
        self._check_keys()
        for fate, reasons in zip(("left out", "incomplete"), counts, strict=True):
            for why, count in reasons.items():
                setup_logging().warning("%s: %d of %d rows %s, %s", self._name, count, self._total, fate, why)
        return Listing(size, *counts, self._digest.hexdigest(), np.array(self._gaps, np.int64), self._sizes)

    def _check_keys(self) -> None:
        """Refuse keys that repeat; equal hashes mean equal keys in any data set that fits a disk."""
        if not self._layout.key:
            return
        rows = np.delete(np.arange(self._total), self._gaps)
        kept = self._hashes[rows]
        _, firsts = np.unique(kept, return_index=True)
        if len(firsts) < len(kept):
            again = np.setdiff1d(np.arange(len(kept)), firsts)[0]
            first = rows[np.flatnonzero(kept == kept[again])[0]]
            what = f"column {self._layout.key!r} of {self._split.data} (split {self._name}) has"
            what += f" {len(kept) - len(firsts)} cells that repeat, the first in rows {first} and {rows[again]}"
            raise DataError(
                message(what, wanted="a key of its own per row", fix="name another column, or leave out key")
            )


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
