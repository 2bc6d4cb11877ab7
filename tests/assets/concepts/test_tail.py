import numpy as np
import pytest

from assets.concepts.tail import (
    align,
    effective_number,
    gini,
    sorted_normalised,
    spearman,
    tail_facts,
    top_share,
)
from tests.assets.concepts.case_a import CASE


def test_curve_and_correlations_of_the_fixture():
    curve = sorted_normalised(CASE["fit_counts"])
    np.testing.assert_allclose(curve, CASE["tail_sorted_normalised"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(spearman(CASE["xcorr_counts"]), CASE["xcorr_spearman"], rtol=0, atol=1e-9)


def test_equal_concepts_have_no_tail():
    facts = tail_facts(np.full(200, 7))
    assert facts == pytest.approx(
        {"zero_share": 0, "top1_share": 0.01, "top10_share": 0.1, "gini": 0, "effective_number": 200}, abs=1e-12
    )


def test_one_concept_that_has_all():
    facts = tail_facts(np.array([0] * 99 + [5]))
    wanted = {"zero_share": 0.99, "top1_share": 1, "top10_share": 1, "gini": 0.99, "effective_number": 1}
    assert facts == pytest.approx(wanted)


def test_gini_is_the_mean_difference_over_twice_the_mean():
    counts = np.random.default_rng(0).integers(0, 50, size=40)
    slow = np.abs(counts[:, None] - counts[None]).mean() / (2 * counts.mean())
    assert gini(counts) == pytest.approx(slow)
    assert gini(counts * 10) == pytest.approx(slow)


def test_order_does_not_matter_and_shares_are_of_whole_concepts():
    counts = np.array([1, 10, 3, 6])
    assert tail_facts(counts) == pytest.approx(tail_facts(counts[::-1].copy()))
    assert top_share(counts, 0.25) == 0.5 and top_share(counts, 0.26) == 0.8
    assert effective_number(np.array([3, 3, 0])) == pytest.approx(2)


def test_nothing_found_is_described_without_dividing_by_it():
    facts = tail_facts(np.zeros(3, dtype=np.int64))
    assert facts == {"zero_share": 1, "top1_share": 0, "top10_share": 0, "gini": 0, "effective_number": 0}
    assert sorted_normalised(np.zeros(3, dtype=np.int64)).tolist() == []


def test_rank_correlations_are_symmetric_and_undefined_for_equal_counts():
    found = spearman(np.array([[1, 5, 9, 9], [9, 5, 1, 1], [2, 2, 2, 2]]))
    assert found[0, 0] == pytest.approx(1) and found[0, 1] == found[1, 0] == pytest.approx(-1)
    assert np.isnan(found[2]).all()


def test_data_sets_are_aligned_by_name_and_not_by_place():
    names, counts = align([{"Polar_bear": 3, "cat": 1, "kite": 5}, {"kite": 50, "CAT": 10, "polar bear": 30, "x": 9}])
    assert names == ["polar bear", "cat", "kite"]
    assert counts.tolist() == [[3, 1, 5], [30, 10, 50]]
    assert spearman(counts)[0, 1] == pytest.approx(1)
    assert align([{"a": 1}, {"b": 1}])[1].shape == (2, 0)
