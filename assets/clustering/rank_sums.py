"""Rows that are spread over ranks, treated as one table: sums over all of them, and some of them fetched by number.

Row p of the table lies on the rank that has p among its ``positions``. Sums travel in float64, so the order in which
ranks are added does not show once they are rounded to float32; fetched rows are sums with zeros, hence exact.
"""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

_BLOCK = 1 << 16
"""Rows that are converted to float64 at a time."""


def sum_over_ranks(value: Tensor) -> Tensor:
    """Return the sum of a tensor over all ranks; the tensor itself on one process. All ranks must call it together."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        value = value.contiguous()
        dist.all_reduce(value)
    return value


def blocks(rows: Tensor, count: int = _BLOCK) -> Iterator[tuple[int, Tensor]]:
    """Yield the first row number and the rows of consecutive pieces.

    Args:
        rows: [n, ...].
        count: Rows per piece, the last one possibly shorter.
    """
    for begin in range(0, len(rows), count):
        yield begin, rows[begin : begin + count]


def fetch_rows(rows: Tensor, positions: Tensor, wanted: Tensor) -> Tensor:
    """Return some rows of the table, on every rank.

    Args:
        rows: This rank's rows, [n, ...].
        positions: Their places in the table, ascending, int64 [n].
        wanted: Places, the same on every rank, int64 [m].

    Returns:
        The rows in that order, [m, ...].
    """
    fetched = rows.new_zeros(len(wanted), *rows.shape[1:])
    if len(rows):
        place = torch.searchsorted(positions, wanted).clamp(max=len(positions) - 1)
        own = positions[place] == wanted
        fetched[own] = rows[place[own]]
    return sum_over_ranks(fetched)


def whole_table(values: Tensor, positions: Tensor, size: int) -> Tensor:
    """Return the whole table, on every rank.

    Args:
        values: This rank's rows, [n, ...].
        positions: Their places in the table, int64 [n].
        size: Rows of the table, N.

    Returns:
        All rows, [N, ...].
    """
    table = values.new_zeros(size, *values.shape[1:])
    table[positions] = values
    return sum_over_ranks(table)


def cluster_sums(rows: Tensor, labels: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Add up the rows of each cluster over all ranks.

    Args:
        rows: This rank's rows, [n, D].
        labels: The cluster of each, int64 [n].
        clusters: Their number, K.

    Returns:
        Sums, float64 [K, D], and numbers of rows, float64 [K].
    """
    table = torch.zeros(clusters, rows.shape[1] + 1, dtype=torch.float64, device=rows.device)
    for begin, block in blocks(rows):
        of_block = labels[begin : begin + len(block)]
        table[:, :-1].index_add_(0, of_block, block.double())
        table[:, -1] += torch.bincount(of_block, minlength=clusters)
    table = sum_over_ranks(table)
    return table[:, :-1], table[:, -1]


def cluster_means(rows: Tensor, labels: Tensor, clusters: int) -> Tensor:
    """Average the rows of each cluster over all ranks.

    Args:
        rows: This rank's rows, [n, D].
        labels: The cluster of each, int64 [n].
        clusters: Their number, K.

    Returns:
        Means, [K, D] in the rows' type; zeros for a cluster without rows.
    """
    sums, counts = cluster_sums(rows, labels, clusters)
    return (sums / counts.clamp(min=1)[:, None]).to(rows.dtype)
