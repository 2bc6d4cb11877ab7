from pathlib import Path

import numpy as np
import pytest

from assets.errors import ConfigError
from assets.reduction.concept_balance import keep, keep_budget, uniforms
from assets.reduction.hash_order import key_hashes, ranks

CASE = np.load(Path(__file__).parents[2] / "fixtures/tldr/case_a.npz")
ENTRIES, PAIRS, DRAWS = CASE["mc_inverted"][:, 0], CASE["mc_inverted"][:, 1], CASE["mc_draws"]
SIZE = int(PAIRS.max()) + 3  # the last two match nothing


def drawn(seed, size=6000):
    """A pool in which entry 0 is in every pair, 1 in every fourth, 2 in every hundredth; 3 stands at none."""
    parts = [(entry, np.arange(0, size, step)) for entry, step in ((0, 1), (1, 4), (2, 100))]
    entries = np.concatenate([np.full(len(rows), entry) for entry, rows in parts])
    pairs = np.concatenate([rows for _, rows in parts])
    hashes = key_hashes([f"key-{row}" for row in range(size)], seed)
    names = key_hashes(["the", "dog", "okapi", "yeti"], seed)
    return entries, pairs, uniforms(hashes, names, entries, pairs)


@pytest.mark.parametrize("counts", [None, CASE["mc_count"]])
def test_the_published_pairs_are_kept(counts):
    kept = keep(ENTRIES, PAIRS, DRAWS, int(CASE["mc_t"]), SIZE, counts)
    assert np.flatnonzero(kept).tolist() == CASE["mc_kept_pairs"].tolist()


def test_a_pair_survives_if_any_of_its_matches_does():
    kept = set()
    counts = {entry: ENTRIES.tolist().count(entry) for entry in set(ENTRIES.tolist())}
    for entry, pair, draw in zip(ENTRIES.tolist(), PAIRS.tolist(), DRAWS.tolist(), strict=True):
        if draw < 4 / max(counts[entry], 4):
            kept.add(pair)
    assert np.flatnonzero(keep(ENTRIES, PAIRS, DRAWS, 4, SIZE)).tolist() == sorted(kept)


def test_rare_entries_keep_all_their_pairs_and_pairs_without_entries_go():
    entries, pairs, draws = drawn(0)
    kept = keep(entries, pairs, draws, 60, 6001)
    assert kept[:6000:100].all()
    assert not kept[6000]
    assert keep(entries, pairs, draws, 60, 6001, keep_unmatched=True)[6000]
    assert keep(entries, pairs, draws, 6000, 6000).all()


def test_the_share_kept_is_that_of_the_formula():
    threshold = 600
    twice = np.arange(6000) % 4 == 0
    twice &= np.arange(6000) % 100 != 0
    once = np.arange(6000) % 4 != 0
    kept = np.mean([keep(*drawn(seed), threshold, 6000) for seed in range(10)], axis=0)
    p_the, p_dog = threshold / 6000, threshold / 1500
    # 45,000 and 14,400 draws: deviations of 0.0014 and 0.004
    assert kept[once].mean() == pytest.approx(p_the, abs=0.006)
    assert kept[twice].mean() == pytest.approx(1 - (1 - p_the) * (1 - p_dog), abs=0.016)


def test_thresholds_are_nested_and_a_budget_is_one_of_them():
    entries, pairs, draws = drawn(0)
    order = ranks([f"key-{row}" for row in range(6000)], key_hashes([f"key-{row}" for row in range(6000)], 0))
    previous = np.zeros(6000, dtype=bool)
    for threshold in (1, 30, 200, 2000):
        kept = keep(entries, pairs, draws, threshold, 6000)
        assert not (previous & ~kept).any()
        by_budget = keep_budget(entries, pairs, draws, order, int(kept.sum()))
        assert by_budget.sum() == kept.sum()
        # rare entries aside, of which all matches survive at once, the budget is the threshold that leaves so many
        rare = np.isin(np.arange(6000), pairs[np.bincount(entries)[entries] <= threshold])
        assert not (by_budget & ~kept & ~rare).any()
        previous = kept


def test_budgets_are_exact_and_do_not_depend_on_the_order_of_matches():
    entries, pairs, draws = drawn(0)
    order = np.random.default_rng(0).permutation(6000)
    kept = keep_budget(entries, pairs, draws, order, 1234)
    assert kept.sum() == 1234
    mixed = np.random.default_rng(1).permutation(len(entries))
    assert np.array_equal(kept, keep_budget(entries[mixed], pairs[mixed], draws[mixed], order, 1234))


def test_repeated_matches_count_as_the_published_code_counts_them():
    kept = keep(np.array([0, 0]), np.array([1, 1]), np.array([0.9, 0.2]), 1, 2)
    assert kept.tolist() == [False, True]


def test_pairs_without_concepts_do_not_fill_a_budget_unless_asked_for():
    entries, pairs, draws = np.array([0, 0, 1]), np.array([0, 1, 2]), np.array([0.5, 0.1, 0.9])
    with pytest.raises(ConfigError, match=r"only 3 of 5 pairs mention a concept.*got 4, wanted at most 3; lower keep"):
        keep_budget(entries, pairs, draws, np.arange(5), 4)
    assert keep_budget(entries, pairs, draws, np.arange(5), 3).tolist() == [True] * 3 + [False] * 2
    found = keep_budget(entries, pairs, draws, np.arange(5), 3, keep_unmatched=True)
    assert found.tolist() == [False, True, False, True, True]


def test_a_threshold_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="such a threshold, got 0, wanted 1 or more"):
        keep(ENTRIES, PAIRS, DRAWS, 0, SIZE)
