import itertools

import numpy as np
import pytest

from evaluation.ranking import STEP, cosines, count_above, expected_hits


def slow_expected_hit(scores: list[float], relevant: list[bool], k: int) -> float:
    """Average over every order of the candidates that a sort by score could leave them in."""
    orders = list(itertools.permutations(range(len(scores))))
    hits = [any(relevant[i] for i in sorted(order, key=lambda i: -scores[i])[:k]) for order in orders]
    return sum(hits) / len(hits)


def fast_expected_hit(scores: list[float], relevant: list[bool], k: int) -> float:
    counts = count_above(np.array([scores], dtype=np.int32), np.array([relevant]), np.ones(len(scores), dtype=np.int64))
    return float(expected_hits(*counts, k)[0])


def test_expected_hits_agree_with_averaging_over_all_orders_of_the_tied():
    rng = np.random.default_rng(0)
    for _ in range(60):
        scores = [int(value) for value in rng.integers(0, 3, 6)]
        relevant = [bool(value) for value in rng.random(6) < 0.4]
        relevant[int(rng.integers(6))] = True
        for k in (1, 2, 3, 5, 6, 9):
            assert fast_expected_hit(scores, relevant, k) == pytest.approx(slow_expected_hit(scores, relevant, k))


@pytest.mark.parametrize("k", [1, 5, 10])
def test_constant_scores_give_exactly_chance(k):
    n = 40
    assert fast_expected_hit([7] * n, [place == 11 for place in range(n)], k) == pytest.approx(k / n)


def test_without_ties_a_hit_is_zero_or_one():
    scores = [5, 4, 3, 2, 1]
    for place in range(5):
        relevant = [i == place for i in range(5)]
        assert [fast_expected_hit(scores, relevant, k) for k in range(1, 6)] == [float(k > place) for k in range(1, 6)]


def test_a_column_of_weight_w_counts_as_w_candidates():
    folded = count_above(np.array([[3, 2]], dtype=np.int32), np.array([[False, True]]), np.array([4, 2]))
    spread = count_above(
        np.array([[3, 3, 3, 3, 2, 2]], dtype=np.int32), np.array([[False] * 4 + [True] * 2]), np.ones(6, int)
    )
    assert [int(part[0]) for part in folded] == [int(part[0]) for part in spread] == [4, 2, 2]


def test_scores_that_differ_by_rounding_noise_are_tied():
    x = np.array([0.5, 0.5 + 1e-7, 0.5 - 1e-7, 0.5 + 4 * STEP], dtype=np.float32)
    scores = cosines(np.array([[1.0, 0.0]], dtype=np.float32), np.stack([x, np.sqrt(1 - x**2)], axis=1))[0]
    assert len(set(scores[:3].tolist())) == 1
    assert scores[3] - scores[0] == 4
