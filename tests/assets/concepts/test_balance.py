"""The rule of balanced concepts against the fixture of concept frequencies: P(keep) = 1 - prod(1 - p)."""

from random import Random

import numpy as np
import pytest

from assets.reduction.concept_balance import keep
from tests.assets.concepts.case_a import CASE, PAIRS

THRESHOLD = int(CASE["bal_t"])
ENTRIES = CASE["bal_match"]
ROWS = np.repeat(np.arange(PAIRS), np.diff(CASE["bal_match_ptr"]))


def test_published_draws_keep_the_published_pairs():
    source, draws, kept = Random(int(CASE["bal_seed"])), np.ones(len(ENTRIES)), np.zeros(PAIRS, dtype=bool)
    for match, (row, entry) in enumerate(zip(ROWS.tolist(), ENTRIES.tolist(), strict=True)):
        if not kept[row]:  # it draws no more for a pair once one of its concepts survived
            draws[match] = source.random()
            kept[row] = draws[match] < CASE["bal_entry_prob_ref"][entry]
    np.testing.assert_array_equal(keep(ENTRIES, ROWS, draws, THRESHOLD, PAIRS), CASE["bal_keep_seeded"])


def test_pairs_are_kept_as_often_as_the_formula_says():
    rng, times = np.random.default_rng(0), 4000
    kept = np.mean(
        [keep(ENTRIES, ROWS, rng.uniform(size=len(ENTRIES)), THRESHOLD, PAIRS) for _ in range(times)], axis=0
    )
    wanted = CASE["bal_keep_prob"]
    assert (kept[wanted == 0] == 0).all() and (kept[wanted == 1] == 1).all()
    assert np.abs(kept - wanted).max() < 5 * np.sqrt(0.25 / times)


@pytest.mark.parametrize("threshold", [int(CASE["bal_entry_count"].max()), 1000])
def test_a_threshold_that_no_concept_exceeds_keeps_all_that_match(threshold):
    kept = keep(ENTRIES, ROWS, np.full(len(ENTRIES), 1 - 1e-9), threshold, PAIRS)
    np.testing.assert_array_equal(kept, np.diff(CASE["bal_match_ptr"]) > 0)
