from pathlib import Path

import numpy as np
import pytest

from assets.errors import ConfigError, DataError
from assets.reduction.clip_score import datacomp, datacomp_threshold, top

CASE = np.load(Path(__file__).parents[2] / "fixtures/tldr/case_a.npz")
SCORES = CASE["cs_score"]


@pytest.mark.parametrize("case", [0, 1])
def test_thresholds_and_rows_are_the_published_ones(case):
    fraction = float(CASE["cs_fraction"][case])
    assert datacomp_threshold(SCORES, fraction) == CASE[f"cs_threshold_{case}"]
    assert np.array_equal(datacomp(SCORES, fraction), CASE[f"cs_keep_{case}"])


def test_the_exact_rule_keeps_a_part_of_what_the_published_one_keeps():
    exact = top(SCORES, np.random.default_rng(0).permutation(len(SCORES)), int(len(SCORES) * 0.3))
    assert exact.sum() == 30
    assert not (exact & ~datacomp(SCORES, 0.3)).any()
    assert SCORES[exact].min() >= SCORES[~exact].max()


def test_ties_are_settled_by_rank_and_not_by_row():
    assert top(np.ones(5, dtype=np.float32), np.array([3, 0, 4, 1, 2]), 2).tolist() == [False, True, False, True, False]


def test_budgets_are_nested_and_increasing_maps_change_nothing():
    order = np.random.default_rng(1).permutation(len(SCORES))
    previous = np.zeros(len(SCORES), dtype=bool)
    for budget in (0, 1, 20, 70, len(SCORES)):
        kept = top(SCORES, order, budget)
        assert not (previous & ~kept).any()
        assert np.array_equal(kept, top(np.exp(3 * SCORES.astype(np.float64)), order, budget))
        previous = kept


def test_the_published_rule_refuses_to_keep_all():
    with pytest.raises(ConfigError, match=r"no score stands at place 101 of 101.*got 1.0, wanted from 0 to below 1"):
        datacomp_threshold(SCORES, 1.0)


def test_missing_scores_are_refused():
    scores = SCORES.copy()
    scores[7] = np.nan
    for rule in (lambda: top(scores, np.arange(101), 3), lambda: datacomp(scores, 0.3)):
        with pytest.raises(DataError, match="1 of 101 pairs have no score"):
            rule()
