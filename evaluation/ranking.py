"""Hits in the first k places of a ranking, with ties treated fairly.

A model that scores two candidates the same has not ranked them, and whatever order a sort leaves them in is an accident
of storage. We therefore count the *expected* hit under a random order of the tied candidates: a model that gives every
candidate the same score lands exactly on chance, instead of on 0, on 1, or on whatever the sort made of it. Scores are
compared after rounding to ``STEP``, because equal candidates may differ in the last bits of a matrix product.
"""

import numpy as np
import numpy.typing as npt

STEP = 1e-6


def cosines(queries: npt.NDArray[np.float32], candidates: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
    """Return cosine similarities in whole multiples of ``STEP``, safe to compare for equality.

    Args:
        queries: Unit norm, [queries, D].
        candidates: Unit norm, [candidates, D].

    Returns:
        [queries, candidates].
    """
    # in float64, so that the order of additions, which differs between machines, all but never decides the rounding
    scores = queries.astype(np.float64) @ candidates.T.astype(np.float64)
    return np.rint(scores / STEP).astype(np.int32)


def expected_hits(
    greater: npt.NDArray[np.int64], tied: npt.NDArray[np.int64], relevant_tied: npt.NDArray[np.int64], k: int
) -> npt.NDArray[np.float64]:
    """Return the chance that one of the first ``k`` places holds a relevant candidate.

    Args:
        greater: Candidates scored above the best relevant one, [queries]; none of them is relevant.
        tied: Candidates scored like the best relevant one, relevant ones included, [queries].
        relevant_tied: Relevant ones among the tied, at least 1, [queries].
        k: How many places count, at least 1.

    Returns:
        Probabilities under a random order of the tied candidates, [queries]: 1 - C(tied - relevant, m) / C(tied, m)
        with m = k - greater places left for them. Without ties, 1 or 0.
    """
    places = np.clip(k - greater, 0, tied)
    miss = np.ones(len(greater))
    for place in range(int(places.max(initial=0))):
        left = np.maximum(tied - relevant_tied - place, 0) / np.maximum(tied - place, 1)
        miss = np.where(place < places, miss * left, miss)
    return 1.0 - miss


def count_above(
    scores: npt.NDArray[np.int32], relevant: npt.NDArray[np.bool_], weights: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Count what stands above and beside the best relevant candidate of each query.

    Args:
        scores: Quantised scores, [queries, candidates].
        relevant: Which candidates are right, at least one per query, [queries, candidates].
        weights: How many candidates each column stands for, [candidates].

    Returns:
        ``greater``, ``tied`` and ``relevant_tied`` as :func:`expected_hits` wants them, [queries] each.
    """
    lowest = np.iinfo(np.int32).min
    best = np.where(relevant, scores, lowest).max(axis=1, keepdims=True)  # [queries, 1]
    level = scores == best
    return (scores > best) @ weights, level @ weights, (level & relevant) @ weights
