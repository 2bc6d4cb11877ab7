"""TL;DR: keep a share of every cluster of the better half of the pool.

Wang et al., "Too Large; Data Reduction for Vision-Language Pre-Training", arXiv 2305.20087. The published text keeps a
quarter of each cluster; the published code keeps every second pair of a cluster, in the order of the list, and of those
the ones whose matching score is in the better half. The size then is an accident, and any order of the list (by site,
by date) leaks in. Hence two rules:

    half_then_stratify   our default: the better half first, then quotas per cluster that spend a budget exactly
    reference            the published code, for parity
"""

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from assets.errors import ConfigError, message
from assets.reduction.budget import check, share_of
from assets.reduction.quotas import Kind
from assets.reduction.quotas import budget as budget_quotas
from assets.reduction.quotas import uniform as uniform_quotas
from assets.reduction.selection import Scores, Selection, best, cluster_counts, first_of_clusters, selection

LOWER_HALF = "in the lower half"
OVER_QUOTA = "over the quota of its cluster"
NOT_ITS_TURN = "not its turn in its cluster"
_HALF = Fraction(1, 2)

Labels = NDArray[np.int32] | NDArray[np.int64]


def uniform(
    labels: Labels, ranks: NDArray[np.int64], clusters: int, rate: float | str | Fraction, scores: Scores | None = None
) -> Selection:
    """Keep the same share of every cluster, rounded up (rules A and, with scores, C).

    Args:
        labels: The cluster of each row, [n].
        ranks: Places in the hash order, int64 [n].
        clusters: Their number, K.
        rate: The share.
        scores: To keep the best of each cluster instead of the first by rank, float [n].

    Returns:
        The decision.
    """
    quotas = uniform_quotas(cluster_counts(labels, clusters), rate)
    return selection((first_of_clusters(labels, quotas, ranks, scores), OVER_QUOTA))


def stratify(
    labels: Labels,
    ranks: NDArray[np.int64],
    clusters: int,
    budget: int,
    quota: Kind = "proportional",
    scores: Scores | None = None,
) -> Selection:
    """Keep exactly a budget, divided among the clusters (rules B and, with scores, C).

    Args:
        labels: The cluster of each row, [n].
        ranks: Places in the hash order, int64 [n].
        clusters: Their number, K.
        budget: Rows to keep.
        quota: How the budget is divided.
        scores: To keep the best of each cluster instead of the first by rank, float [n].

    Returns:
        The decision.

    Raises:
        ConfigError: There are fewer rows than the budget.
    """
    check(budget, len(labels))
    quotas = budget_quotas(cluster_counts(labels, clusters), budget, quota)
    return selection((first_of_clusters(labels, quotas, ranks, scores), OVER_QUOTA))


def half_then_stratify(
    labels: Labels,
    scores: Scores,
    ranks: NDArray[np.int64],
    clusters: int,
    budget: int,
    quota: Kind = "proportional",
) -> Selection:
    """Drop the lower half by score, then keep exactly a budget of the rest, divided among the clusters (rule D).

    Args:
        labels: The cluster of each row, [n].
        scores: float [n].
        ranks: Places in the hash order, int64 [n].
        clusters: Their number, K.
        budget: Rows to keep, at most half of them, rounded up.
        quota: How the budget is divided.

    Returns:
        The decision.

    Raises:
        ConfigError: The budget is above half of the rows.
        DataError: A score is missing.
    """
    better = better_half(scores, ranks)
    check(budget, int(better.sum()), "the better half of the pool")
    rows = np.flatnonzero(better)
    quotas = budget_quotas(cluster_counts(labels[rows], clusters), budget, quota)
    kept = np.zeros(len(labels), dtype=np.bool_)
    kept[rows] = first_of_clusters(labels[rows], quotas, ranks[rows])
    return selection((better, LOWER_HALF), (kept, OVER_QUOTA))


def reference(labels: Labels, top_half: NDArray[np.bool_], stride: int) -> NDArray[np.int64]:
    """Follow the published code: every so many-th row of each cluster, and of those the ones in the better half.

    Args:
        labels: The cluster of each row, in the order of the list, [n].
        top_half: Whether a row is in the better half, bool [n].
        stride: Keeps one of so many rows of a cluster, beginning with its first.

    Returns:
        Rows, cluster after cluster, each in the order of the list, int64 [m].

    Raises:
        ConfigError: The stride is not positive.
    """
    if stride < 1:
        raise ConfigError(message("the reference rule cannot take such strides", stride, "1 or more"))
    order = np.argsort(labels, kind="stable")
    counts = cluster_counts(labels, int(labels.max(initial=-1)) + 1)
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows = order[place % stride == 0]
    return rows[top_half[rows]]


def better_half(scores: Scores, ranks: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Keep half of the rows, rounded up, by score.

    Args:
        scores: float [n].
        ranks: Places in the hash order, which settle ties, int64 [n].

    Returns:
        bool [n].
    """
    return best(scores, ranks, share_of(_HALF, len(scores)))
