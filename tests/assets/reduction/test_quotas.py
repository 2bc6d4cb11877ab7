from fractions import Fraction

import numpy as np
import pytest

from assets.errors import ConfigError
from assets.reduction.quotas import budget, uniform

KINDS = ("proportional", "sqrt", "cap")


def random_counts(seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 60, rng.integers(1, 30))
    return np.where(rng.random(len(counts)) < 0.2, 0, counts) + (np.arange(len(counts)) == 0)


def slow_proportional(counts, total):
    """Give units one at a time to the cluster that lacks most of its exact share, after the whole ones."""
    size = sum(counts)
    shares = [Fraction(count * total, size) for count in counts]
    quotas = [int(share) for share in shares]
    order = sorted(range(len(counts)), key=lambda c: (quotas[c] - shares[c], c))
    for c in order[: total - sum(quotas)]:
        quotas[c] += 1
    return quotas


def slow_cap(counts, total):
    """Pour one unit after the other into the emptiest cluster that has room, the lowest of those."""
    quotas = [0] * len(counts)
    for _ in range(total):
        open_ = [c for c in range(len(counts)) if quotas[c] < counts[c]]
        quotas[min(open_, key=lambda c: (quotas[c], c))] += 1
    return quotas


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", KINDS)
def test_budgets_are_spent_exactly_and_no_cluster_gives_more_than_it_has(seed, kind):
    counts = random_counts(seed)
    for total in {0, 1, int(counts.sum()) // 3, int(counts.sum()) - 1, int(counts.sum())}:
        quotas = budget(counts, total, kind)
        assert quotas.sum() == total
        assert (quotas >= 0).all()
        assert (quotas <= counts).all()
    assert np.array_equal(budget(counts, int(counts.sum()), kind), counts)


@pytest.mark.parametrize("seed", range(20))
def test_proportional_parts_are_those_of_exact_arithmetic(seed):
    counts = random_counts(seed)
    total = int(counts.sum()) * (seed + 1) // 21
    assert budget(counts, total).tolist() == slow_proportional(counts.tolist(), total)


@pytest.mark.parametrize("seed", range(20))
def test_capped_parts_are_those_of_pouring(seed):
    counts = random_counts(seed)
    total = int(counts.sum()) * (seed + 1) // 21
    assert budget(counts, total, "cap").tolist() == slow_cap(counts.tolist(), total)


def test_parts_worked_out_by_hand():
    counts = np.array([100, 25, 0, 4])
    # in proportion to 10, 5, 0 and 2
    assert budget(counts, 17, "sqrt").tolist() == [10, 5, 0, 2]
    # 20, 10 and 4 would be due; the last has just that, and 18.67 + 9.33 of 34 - 4 + 0 stay in proportion 2 to 1
    assert budget(counts, 34, "sqrt").tolist() == [20, 10, 0, 4]
    assert budget(counts, 64, "sqrt").tolist() == [40, 20, 0, 4]
    assert budget(counts, 90, "sqrt").tolist() == [61, 25, 0, 4]
    assert budget(counts, 20, "cap").tolist() == [8, 8, 0, 4]
    assert budget(counts, 21, "cap").tolist() == [9, 8, 0, 4]
    assert budget(np.array([1, 1, 1]), 2).tolist() == [1, 1, 0]


def test_kinds_favour_small_clusters_in_their_order():
    counts = np.array([900, 90, 10])
    small = [int(budget(counts, 200, kind)[2]) for kind in KINDS]
    assert small == sorted(small)
    assert small[0] == 2
    assert small[2] == 10


def test_millions_of_rows_do_not_overflow():
    counts = np.full(3000, 5000)
    assert budget(counts, 3_750_000).tolist() == [1250] * 3000


def test_a_uniform_rate_is_rounded_up_exactly():
    assert uniform(np.array([30, 0, 1, 10, 11]), 0.1).tolist() == [3, 0, 1, 1, 2]
    assert uniform(np.array([30, 7]), "1").tolist() == [30, 7]
    assert uniform(np.array([7, 9]), Fraction(1, 3)).tolist() == [3, 3]
    assert uniform(np.array([3]), "0.123456789012345678901234567890").tolist() == [1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_budget_above_the_pool_is_refused(kind):
    with pytest.raises(ConfigError, match="cannot keep 8 pairs: the clusters together has 7"):
        budget(np.array([3, 4]), 8, kind)
