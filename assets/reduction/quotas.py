"""How many pairs each cluster may keep: the same share of all, or parts of a budget that add up to it exactly.

    uniform       ceil(rate * n_c)
    proportional  parts of the budget in proportion to n_c       (keeps the pool's mixture)
    sqrt          ... to the root of n_c                         (favours small clusters)
    cap           min(n_c, t), t such that the budget is spent   (favours them most)

Parts become whole numbers by largest remainder, ties to the lower cluster; none is above n_c.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from assets.reduction.budget import check, exact

Kind = Literal["proportional", "sqrt", "cap"]


def uniform(counts: NDArray[np.int64], rate: float | str | Fraction) -> NDArray[np.int64]:
    """Keep the same share of every cluster, rounded up.

    Args:
        counts: Pairs per cluster, int64 [K].
        rate: Above 0 and at most 1.

    Returns:
        int64 [K].
    """
    share = exact(rate)
    wide = counts.astype(object)  # whole numbers of any size: the denominator of a written share may be large
    return np.array([-(-count * share.numerator // share.denominator) for count in wide], dtype=np.int64)


def budget(counts: NDArray[np.int64], total: int, kind: Kind = "proportional") -> NDArray[np.int64]:
    """Divide a number of pairs among clusters.

    Args:
        counts: Pairs per cluster, int64 [K].
        total: To be kept of all.
        kind: Of division.

    Returns:
        int64 [K], of sum ``total``, none above its count.

    Raises:
        ConfigError: ``total`` is more than there is.
    """
    check(total, int(counts.sum()), "the clusters together")
    if not total:
        return np.zeros(len(counts), dtype=np.int64)
    return _KINDS[kind](counts.astype(np.int64), total)


def _proportional(counts: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    size = int(counts.sum())
    assert total <= 2**63 // max(size, 1), "the products below would overflow"
    quotas, remainders = np.divmod(counts * total, size)
    return _spend(quotas, remainders.astype(np.float64) / size, counts, total)


def _sqrt(counts: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    parts = np.zeros(len(counts))
    open_ = counts > 0
    weights = np.sqrt(counts)
    while True:
        left = total - int(counts[(counts > 0) & ~open_].sum())
        parts[open_] = left * weights[open_] / weights[open_].sum() if open_.any() else 0
        full = open_ & (parts >= counts)
        if not full.any():
            break
        # what a full cluster cannot take goes to the others, whose parts only grow by that
        parts[full], open_ = counts[full], open_ & ~full
    quotas = np.floor(parts).astype(np.int64)
    return _spend(quotas, parts - quotas, counts, total)


def _cap(counts: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    low, high = 0, int(counts.max())
    while low < high:  # the largest whole cap that does not overspend
        middle = (low + high + 1) // 2
        low, high = (middle, high) if int(np.minimum(counts, middle).sum()) <= total else (low, middle - 1)
    quotas = np.minimum(counts, low)
    return _spend(quotas, np.where(counts > low, 0.5, 0), counts, total)


def _spend(
    quotas: NDArray[np.int64], remainders: NDArray[np.float64], counts: NDArray[np.int64], total: int
) -> NDArray[np.int64]:
    """Hand out what rounding down left, one each, by largest remainder, ties to the lower cluster."""
    quotas = quotas.copy()
    left = total - int(quotas.sum())
    order = np.argsort(-remainders, kind="stable")
    order = order[quotas[order] < counts[order]]
    assert 0 <= left <= len(order)
    quotas[order[:left]] += 1
    return quotas


_KINDS: dict[Kind, Callable[[NDArray[np.int64], int], NDArray[np.int64]]] = {
    "proportional": _proportional,
    "sqrt": _sqrt,
    "cap": _cap,
}
