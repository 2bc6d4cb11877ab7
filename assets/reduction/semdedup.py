"""SemDeDup: of pairs whose images look almost the same to an encoder, keep one.

Abbas et al., arXiv 2303.09540. Inside each cluster the rows x_1, x_2, ... stand in the order of their cosine to its
centroid, and

    M_j = max(0, max over i < j of x_i . x_j),   drop j if M_j > 1 - eps

so of two near-copies the one that comes first survives: the farthest from the centroid ("hard", as published), the
nearest ("easy"), or the first of the hash order ("random"). A row is dropped even if the earlier one was dropped, too.
A budget keeps the rows with the smallest M, ties by the hash order, which is what the fitting eps would keep. Only
images count: use it after a filter by score, which knows whether the caption fits.

A cluster is compared with itself in blocks: memory grows with the rows of the largest cluster, never with their square.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from assets.errors import ConfigError, message
from assets.reduction.budget import check
from assets.reduction.clusters import Table
from assets.reduction.selection import cluster_counts
from assets.unit import unit

Order = Literal["hard", "easy", "random"]
_BLOCK = 1 << 12
"""Rows compared with as many others at a time; 64 MiB of products."""
_HELD = 1 << 18
"""Rows of a cluster that stay in memory; those of a larger one are read again for every block."""


@dataclass(frozen=True, slots=True)
class Nearest:
    """How close each row has one before it in its cluster.

    Attributes:
        similarity: M, the cosine of the closest earlier row, 0 at least; float32 [n].
        first: Whether the row is the first one of its cluster, bool [n].
    """

    similarity: NDArray[np.float32]
    first: NDArray[np.bool_]


def nearest_earlier(
    rows: Table,
    labels: NDArray[np.int32] | NDArray[np.int64],
    centroids: NDArray[np.float32],
    ranks: NDArray[np.int64],
    order: Order = "hard",
) -> Nearest:
    """Compare every row with those before it in its cluster.

    Args:
        rows: Image features, of any norm but zero, [n, D].
        labels: The cluster of each, [n].
        centroids: Of the same features, of any norm, float32 [K, D].
        ranks: Places in the hash order, which settle ties, int64 [n].
        order: In which the rows of a cluster stand.

    Returns:
        The closest earlier row of each.
    """
    found = Nearest(np.zeros(len(labels), dtype=np.float32), np.zeros(len(labels), dtype=np.bool_))
    counts = cluster_counts(labels, len(centroids))
    by_cluster = np.lexsort((ranks, labels))
    directions = unit(centroids.astype(np.float32))
    for number, end in enumerate(np.cumsum(counts).tolist()):
        members = by_cluster[end - counts[number] : end]
        if not len(members):
            continue
        places = members[_in_order(rows, members, directions[number], order)]
        found.first[places[0]] = True
        for begin, values in _closest(rows, places):
            found.similarity[places[begin : begin + len(values)]] = values
    return found


def keep(
    found: Nearest, ranks: NDArray[np.int64], eps: float | None = None, budget: int | None = None
) -> NDArray[np.bool_]:
    """Drop the rows that have too close an earlier one, or keep exactly a budget.

    Args:
        found: From :func:`nearest_earlier`.
        ranks: Places in the hash order, which settle ties, int64 [n].
        eps: Drop rows with M > 1 - eps, but never the first of a cluster.
        budget: Keep so many rows, those with the smallest M. Give one of both.

    Returns:
        bool [n].

    Raises:
        ConfigError: Neither or both are given, eps is out of range, or there are fewer rows than the budget.
    """
    if (eps is None) == (budget is None):
        raise ConfigError(message("near-copies are dropped by eps or down to a budget", fix="give one of both"))
    if eps is not None:
        if not 0 <= eps <= 2:
            raise ConfigError(message("eps of SemDeDup is out of range", eps, "0 to 2"))
        return found.first | ~(found.similarity > 1 - eps)
    assert budget is not None
    check(budget, len(ranks))
    kept = np.zeros(len(ranks), dtype=np.bool_)
    # a first row has M = 0 as others may have, and goes before them
    kept[np.lexsort((ranks, ~found.first, found.similarity))[:budget]] = True
    return kept


def _in_order(
    rows: Table, members: NDArray[np.int64], direction: NDArray[np.float32], order: Order
) -> NDArray[np.int64]:
    """Return the order of a cluster's rows, which stand by rank now."""
    if order == "random":
        return np.arange(len(members))
    # in float64 and row by row, then rounded: the same value wherever a row stands
    cosines = np.concatenate(
        [(block * direction.astype(np.float64)).sum(axis=1) for _, block in _blocks(rows, members)]
    )
    cosines = cosines.astype(np.float32)
    return np.argsort(cosines if order == "hard" else -cosines, kind="stable")


def _blocks(rows: Table, places: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield the first place and the unit rows of consecutive pieces."""
    for begin in range(0, len(places), _BLOCK):
        yield begin, unit(rows[places[begin : begin + _BLOCK]].astype(np.float32))


def _closest(rows: Table, places: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield M of consecutive pieces of a cluster whose rows stand in order."""
    held = [block for _, block in _blocks(rows, places)] if len(places) <= _HELD else None
    for begin in range(0, len(places), _BLOCK):
        block = held[begin // _BLOCK] if held is not None else next(_blocks(rows, places[begin:]))[1]
        most = np.tril(block @ block.T, -1).max(axis=1)  # the zeros above the diagonal are the least that M can be
        earlier = held[: begin // _BLOCK] if held is not None else (one for _, one in _blocks(rows, places[:begin]))
        for other in earlier:
            np.maximum(most, (block @ other.T).max(axis=1), out=most)
        yield begin, most
