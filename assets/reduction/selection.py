"""What a rule decided, and the two decisions that all rules are made of: the best rows, and the first of each cluster.

Rows are compared by (score, highest first; rank), or by rank alone. Ranks are those of the hash order
(``assets.reduction.hash_order``), all different, so no decision depends on the order of rows.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from assets.errors import DataError, message
from assets.reduction.budget import check

Scores = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Selection:
    """What a rule keeps of n rows, and why it dropped the others.

    Attributes:
        kept: bool [n].
        reason: A place in ``reasons`` for each row, uint8 [n]; 0 where it is kept.
        reasons: The texts; the first one is empty.
    """

    kept: NDArray[np.bool_]
    reason: NDArray[np.uint8]
    reasons: tuple[str, ...]

    def __post_init__(self) -> None:
        assert self.reasons[0] == ""
        assert np.array_equal(self.kept, self.reason == 0)

    def counts(self) -> dict[str, int]:
        """Return how many rows were dropped for each reason."""
        found = np.bincount(self.reason, minlength=len(self.reasons)).tolist()
        return dict(zip(self.reasons[1:], found[1:], strict=True))


def selection(*stages: tuple[NDArray[np.bool_], str]) -> Selection:
    """Combine decisions on the same rows: a row stays if all keep it; the first that does not is the reason.

    Args:
        stages: Which rows are kept, bool [n], and the reason for the others.

    Returns:
        The rule's decision.
    """
    reason = np.zeros(len(stages[0][0]), dtype=np.uint8)
    for number, (kept, _) in enumerate(stages, 1):
        reason[(reason == 0) & ~kept] = number
    return Selection(reason == 0, reason, ("", *(text for _, text in stages)))


def check_scores(scores: Scores) -> None:
    """Refuse scores of which some are missing.

    Args:
        scores: float [n], NaN where there is none.

    Raises:
        DataError: There is a NaN.
    """
    missing = np.flatnonzero(np.isnan(scores))
    if len(missing):
        what = f"{len(missing)} of {len(scores)} pairs have no score (the first one is row {missing[0]})"
        raise DataError(message(what, fix='score the whole pool: rerun the stage that makes the scores ("dvc repro")'))


def best(scores: Scores | None, ranks: NDArray[np.int64], budget: int) -> NDArray[np.bool_]:
    """Keep the rows with the highest scores, ties by rank.

    Args:
        scores: float [n]; None to go by rank alone.
        ranks: All different, int64 [n].
        budget: How many.

    Returns:
        bool [n], of which exactly ``budget`` are true.

    Raises:
        ConfigError: There are fewer rows.
        DataError: A score is missing.
    """
    check(budget, len(ranks))
    order = np.lexsort(_sort_keys(scores, ranks))
    kept = np.zeros(len(ranks), dtype=np.bool_)
    kept[order[:budget]] = True
    return kept


def first_of_clusters(
    labels: NDArray[np.int32] | NDArray[np.int64],
    quotas: NDArray[np.int64],
    ranks: NDArray[np.int64],
    scores: Scores | None = None,
) -> NDArray[np.bool_]:
    """Keep the first rows of each cluster, up to its quota.

    Args:
        labels: The cluster of each row, [n].
        quotas: Rows to keep of each, int64 [K].
        ranks: All different, int64 [n].
        scores: float [n], to take the highest first; None to go by rank alone.

    Returns:
        bool [n].

    Raises:
        DataError: A score is missing.
    """
    order = np.lexsort((*_sort_keys(scores, ranks), labels))
    counts = cluster_counts(labels, len(quotas))
    begins = np.cumsum(counts) - counts
    place = np.empty(len(labels), dtype=np.int64)
    place[order] = np.arange(len(labels)) - np.repeat(begins, counts)
    return place < quotas[labels]


def cluster_counts(labels: NDArray[np.int32] | NDArray[np.int64], clusters: int) -> NDArray[np.int64]:
    """Count the rows of each cluster.

    Args:
        labels: [n], from 0 to ``clusters`` - 1.
        clusters: Their number, K.

    Returns:
        int64 [K].
    """
    return np.bincount(labels, minlength=clusters).astype(np.int64)


def _sort_keys(scores: Scores | None, ranks: NDArray[np.int64]) -> tuple[NDArray, ...]:
    """Return the keys of an order as NumPy's lexsort takes them, the one that counts most last."""
    if scores is None:
        return (ranks,)
    check_scores(scores)
    return (ranks, -scores)
