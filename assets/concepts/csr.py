"""Concepts of many pairs: for each pair a few of many concepts, as compressed rows."""

from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Csr:
    """Rows of concepts.

    Attributes:
        pointer: Row i is ``concepts[pointer[i]:pointer[i + 1]]``, int64 [n + 1].
        concepts: Ascending and each once within a row, int32 [m].
    """

    pointer: NDArray[np.int64]
    concepts: NDArray[np.int32]

    @staticmethod
    def of_rows(rows: list[list[int]]) -> "Csr":
        """Make rows out of lists, each ascending and without repeats."""
        pointer = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in rows], out=pointer[1:])
        return Csr(pointer, np.fromiter(chain.from_iterable(rows), dtype=np.int32, count=int(pointer[-1])))

    def __len__(self) -> int:
        return len(self.pointer) - 1

    @property
    def rows(self) -> NDArray[np.int64]:
        """Row of every entry, int64 [m]."""
        return np.repeat(np.arange(len(self)), np.diff(self.pointer))

    def counts(self, size: int) -> NDArray[np.int64]:
        """Return the rows that each concept stands in, int64 [size].

        Args:
            size: Number of concepts, K.
        """
        return np.bincount(self.concepts, minlength=size).astype(np.int64)

    def row(self, place: int) -> NDArray[np.int32]:
        """Return the concepts of one row."""
        return self.concepts[self.pointer[place] : self.pointer[place + 1]]

    def intersection(self, other: "Csr") -> "Csr":
        """Return what each row has in common with that of another.

        Args:
            other: As many rows.
        """
        size = 1 + max(int(rows.concepts.max(initial=0)) for rows in (self, other))
        both = np.isin(self._cells(size), other._cells(size), assume_unique=True)
        ends = np.concatenate([[0], np.cumsum(both)])
        return Csr(ends[self.pointer].astype(np.int64), self.concepts[both])

    def take(self, places: NDArray[np.int64]) -> "Csr":
        """Return some rows in the order given.

        Args:
            places: [k].
        """
        sizes = np.diff(self.pointer)[places]
        pointer = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        inside = np.arange(pointer[-1]) - np.repeat(pointer[:-1], sizes)
        return Csr(pointer, self.concepts[np.repeat(self.pointer[places], sizes) + inside])

    def _cells(self, size: int) -> NDArray[np.int64]:
        """Number every pair of row and concept."""
        return self.rows * size + self.concepts
