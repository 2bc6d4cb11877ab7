from pathlib import Path

import numpy as np
import pytest

from assets.errors import ConfigError, DataError
from assets.reduction import random_subset
from assets.reduction.hash_order import key_hashes, ranks
from assets.reduction.tldr import LOWER_HALF, OVER_QUOTA, better_half, half_then_stratify, reference, stratify, uniform

CASE = np.load(Path(__file__).parents[2] / "fixtures/tldr/case_a.npz")
LABELS, CLUSTERS = CASE["sel_assign"], int(CASE["sel_k"])
KEYS = [f"key-{number}" for number in range(1001)]
RNG = np.random.default_rng(0)
MANY = RNG.integers(0, 20, len(KEYS)) ** 2 // 20
SCORES = RNG.integers(0, 50, len(KEYS)).astype(np.float32) / 50


def places(keys=KEYS, seed=0):
    return ranks(keys, key_hashes(keys, seed))


def test_uniform_keeps_the_published_rows():
    keys = CASE["own_keys"]
    found = uniform(LABELS, places(keys, int(CASE["own_seed"])), CLUSTERS, str(CASE["own_rate"]))
    assert np.array_equal(found.kept, CASE["own_keep"])


@pytest.mark.parametrize("stride", CASE["sel_strides"].tolist())
def test_the_reference_rule_keeps_the_published_rows_in_their_order(stride):
    every = np.ones(len(LABELS), dtype=bool)
    assert np.array_equal(reference(LABELS, every, stride), CASE[f"sel_pre_N{stride}"])
    assert np.array_equal(reference(LABELS, CASE["sel_itm_keep"], stride), CASE[f"sel_post_N{stride}"])


def test_the_reference_rule_with_stride_one_keeps_all_and_the_half_is_an_intersection():
    every = np.ones(len(LABELS), dtype=bool)
    assert sorted(reference(LABELS, every, 1)) == list(range(len(LABELS)))
    half = CASE["sel_itm_keep"]
    assert set(reference(LABELS, half, 2)) == set(reference(LABELS, every, 2)) & set(np.flatnonzero(half))
    assert len(reference(LABELS[:0], half[:0], 2)) == 0
    with pytest.raises(ConfigError, match="such strides, got 0, wanted 1 or more"):
        reference(LABELS, half, 0)


@pytest.mark.parametrize("rate", ["0.1", "0.25", "0.5", "1"])
@pytest.mark.parametrize("scored", [False, True])
def test_uniform_keeps_the_ceiling_of_every_cluster(rate, scored):
    found = uniform(MANY, places(), 20, rate, SCORES if scored else None)
    counts, kept = np.bincount(MANY, minlength=20), np.bincount(MANY[found.kept], minlength=20)
    assert kept.tolist() == np.ceil(counts * float(rate) - 1e-9).astype(int).tolist()
    assert ((kept > 0) == (counts > 0)).all()
    assert found.counts() == {OVER_QUOTA: len(KEYS) - int(kept.sum())}


@pytest.mark.parametrize("scored", [False, True])
def test_uniform_rates_are_nested(scored):
    scores = SCORES if scored else None
    small, large = (uniform(MANY, places(), 20, rate, scores).kept for rate in (0.1, 0.25))
    assert not (small & ~large).any()


def test_one_cluster_is_a_random_subset_by_hash():
    one = np.zeros(len(KEYS), dtype=np.int32)
    for found in (uniform(one, places(), 1, 0.25), stratify(one, places(), 1, 251)):
        assert np.array_equal(found.kept, random_subset.keep(places(), 251))


def test_scores_choose_the_best_of_each_cluster():
    found = stratify(MANY, places(), 20, 250, scores=SCORES).kept
    for cluster in np.unique(MANY):
        inside = MANY == cluster
        if (inside & found).any() and (inside & ~found).any():
            assert SCORES[inside & found].min() >= SCORES[inside & ~found].max()


@pytest.mark.parametrize("quota", ["proportional", "sqrt", "cap"])
@pytest.mark.parametrize("budget", [1, 100, 251, 501])
def test_half_then_stratify_keeps_exactly_the_budget_out_of_the_better_half(quota, budget):
    found = half_then_stratify(MANY, SCORES, places(), 20, budget, quota)
    half = better_half(SCORES, places())
    assert half.sum() == 501
    assert found.kept.sum() == budget
    assert not (found.kept & ~half).any()
    assert found.counts() == {LOWER_HALF: 500, OVER_QUOTA: 501 - budget}
    assert np.array_equal(found.reason == 1, ~half)


def test_half_then_stratify_divides_by_the_clusters_of_the_half():
    # every row of cluster 1 is in the worse half: the whole budget belongs to cluster 0
    labels = np.array([0] * 4 + [1] * 4)
    scores = np.array([9, 8, 7, 6, 1, 2, 3, 4], dtype=np.float32)
    found = half_then_stratify(labels, scores, np.arange(8), 2, 2)
    assert np.flatnonzero(found.kept).tolist() == [0, 1]


RULES = {
    "uniform": lambda labels, scores, order: uniform(labels, order, 20, 0.3),
    "uniform by score": lambda labels, scores, order: uniform(labels, order, 20, 0.3, scores),
    "stratify": lambda labels, scores, order: stratify(labels, order, 20, 300, "sqrt"),
    "half_then_stratify": lambda labels, scores, order: half_then_stratify(labels, scores, order, 20, 250, "cap"),
}


@pytest.mark.parametrize("rule", RULES)
def test_the_order_of_rows_changes_nothing(rule):
    kept = RULES[rule](MANY, SCORES, places()).kept
    mixed = np.random.default_rng(5).permutation(len(KEYS))
    again = RULES[rule](MANY[mixed], SCORES[mixed], places([KEYS[row] for row in mixed])).kept
    assert np.array_equal(again, kept[mixed])


def test_seeds_share_about_the_square_of_the_rate():
    one, two = (uniform(MANY, places(seed=seed), 20, 0.25).kept for seed in (0, 1))
    assert 40 <= (one & two).sum() <= 95  # 63 on average


def test_what_cannot_be_kept_is_refused():
    with pytest.raises(ConfigError, match="cannot keep 502 pairs: the better half of the pool has 501"):
        half_then_stratify(MANY, SCORES, places(), 20, 502)
    with pytest.raises(ConfigError, match="cannot keep 1002 pairs: the pool has 1001"):
        stratify(MANY, places(), 20, 1002)
    with pytest.raises(DataError, match="1001 of 1001 pairs have no score"):
        half_then_stratify(MANY, np.full(1001, np.nan), places(), 20, 10)
