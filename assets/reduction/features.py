"""What is clustered: tables over the sidecars of a pool, read in pieces, for those pairs that a step sees."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from assets.progress import Progress
from assets.reduction.clusters import Table, code_histograms, code_means, code_numbers
from assets.reduction.config import Features
from assets.reduction.pool import Pool
from assets.sidecar import Sidecar

IMAGE = 0
"""Slot of the picture in rows of embeddings."""


@dataclass(frozen=True, slots=True)
class SidecarTable:
    """Rows of a sidecar as a table of numbers.

    Attributes:
        sidecar: Rows [D], or [R, D] of which one slot is read.
        positions: From :meth:`assets.sidecar.Sidecar.join`, int64 [n].
        slot: Which slot; None where rows have none.
    """

    sidecar: Sidecar
    positions: NDArray[np.int64]
    slot: int | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and width."""
        return len(self.positions), self.sidecar.row_shape[-1]

    def __getitem__(self, places: slice | NDArray[np.int64], /) -> NDArray:
        """Read some rows, [m, D]."""
        rows = self.sidecar.rows(self.positions[places])
        return rows if self.slot is None else rows[:, self.slot]


@dataclass(frozen=True, slots=True)
class Watched:
    """A table that counts the rows read from it.

    Attributes:
        rows: The table.
        progress: Is advanced.
    """

    rows: Table
    progress: Progress

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and width."""
        return self.rows.shape

    def __getitem__(self, places: slice | NDArray[np.int64], /) -> NDArray:
        """Read some rows, [m, D]."""
        found = self.rows[places]
        self.progress.advance(len(found))
        return found


def feature_table(kind: Features, pool: Pool, rows: NDArray[np.int64]) -> Table:
    """Return what is clustered of some pairs of a pool.

    Args:
        kind: Image embeddings, or one of three ways to read codes.
        pool: The pool, with what the kind needs.
        rows: Of the pool, int64 [n].

    Returns:
        A table [n, D]; nothing is read yet.
    """
    if kind == "image":
        assert pool.embeddings is not None, "the config asks for embeddings"
        return SidecarTable(pool.embeddings.sidecar, pool.embeddings.positions[rows], IMAGE)
    assert pool.codes is not None, "the config asks for codes"
    codes = SidecarTable(pool.codes.sidecar, pool.codes.positions[rows])
    if kind == "codes_raw":
        return code_numbers(codes)
    if kind == "codes_hist":
        return code_histograms(codes, len(pool.codes.codebook))
    return code_means(codes, pool.codes.codebook)
