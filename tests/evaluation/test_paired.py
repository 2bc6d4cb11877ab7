from dataclasses import replace

import numpy as np
import pytest

from assets.errors import DataError
from evaluation.paired import Difference, UnitScores, compare_pairs, corrected

UNITS = 300


def planted(rng, skill, seeds=3, luck=0.0, difficulty=None, noise=0.5):
    """Hits of some seeds: a unit is right when the recipe's skill beats its difficulty, which all models share."""
    difficulty = rng.normal(size=UNITS) if difficulty is None else difficulty
    skills = skill + luck * rng.normal(size=(seeds, 1))
    hits = skills + noise * rng.normal(size=(seeds, UNITS)) > difficulty
    return UnitScores(tuple(f"k{i}" for i in range(UNITS)), hits.astype(np.float64))


def one(first, second, draws=2000):
    return compare_pairs({"a": first, "b": second}, [("a", "b")], draws)[0]


def test_a_planted_difference_is_found_and_lies_in_its_interval():
    rng = np.random.default_rng(0)
    difficulty = rng.normal(size=UNITS)
    better, worse = (planted(rng, skill, difficulty=difficulty) for skill in (0.5, 0.0))
    found = one(better, worse)
    assert found.value == pytest.approx(better.scores.mean() - worse.scores.mean())
    assert 0 < found.low < found.value < found.high and found.p < 0.01 and found.is_significant and found.knows_seeds
    back = one(worse, better)
    assert (back.value, back.low) == pytest.approx((-found.value, -found.high), abs=0.01)


def test_what_both_find_hard_drops_out_of_the_interval():
    rng = np.random.default_rng(1)
    difficulty = rng.normal(size=UNITS)
    shared = [planted(rng, 0.3 * skill, 1, difficulty=difficulty, noise=0.1) for skill in (1, 0)]
    apart = [planted(rng, 0.3 * skill, 1, noise=0.1) for skill in (1, 0)]
    paired, unpaired = one(*shared), one(*apart)
    assert paired.high - paired.low < 0.6 * (unpaired.high - unpaired.low)


def test_units_are_joined_by_key_and_not_by_place():
    rng = np.random.default_rng(2)
    scores = planted(rng, 0.2)
    order = rng.permutation(UNITS)
    shuffled = UnitScores(tuple(scores.keys[i] for i in order), scores.scores[:, order])
    assert one(scores, shuffled).value == 0.0
    other = planted(rng, 0.0)
    assert one(shuffled, other).value == pytest.approx(one(scores, other).value)


@pytest.mark.parametrize(("luck", "noise", "seeds"), [(0.0, 0.5, (3, 3)), (0.2, 0.3, (3, 3)), (0.2, 0.3, (3, 1))])
def test_without_a_difference_about_five_percent_are_called_one(luck, noise, seeds):
    rng = np.random.default_rng(3)
    trials = 300
    called = 0
    for _ in range(trials):
        difficulty = rng.normal(size=UNITS)
        first, second = (planted(rng, 0.0, number, luck, difficulty, noise) for number in seeds)
        called += one(first, second, 400).p < 0.05
    assert 0.005 <= called / trials <= 0.09


def test_one_seed_each_is_compared_over_units_alone_and_says_so():
    rng = np.random.default_rng(4)
    alone = one(planted(rng, 0.0, 1), planted(rng, 0.0, 1))
    assert not alone.knows_seeds
    per_unit = rng.normal(0.1, 1.0, UNITS)
    keys = tuple(map(str, range(UNITS)))
    found = one(UnitScores(keys, per_unit[None]), UnitScores(keys, np.zeros((1, UNITS))), 8000)
    half = 1.96 * per_unit.std(ddof=1) / UNITS**0.5
    assert (found.value - found.low, found.high - found.value) == pytest.approx((half, half), rel=0.06)


def test_scatter_of_seeds_alone_gives_students_interval():
    keys = tuple(map(str, range(50)))
    first = UnitScores(keys, np.repeat([[0.50], [0.53], [0.56]], 50, axis=1))
    second = UnitScores(keys, np.repeat([[0.40], [0.43], [0.46]], 50, axis=1))
    found = one(first, second, 20_000)
    half = 2.776 * 0.03 * (2 / 3) ** 0.5  # t of 4 degrees of freedom, equal variances
    assert (found.low, found.high) == pytest.approx((0.1 - half, 0.1 + half), abs=0.006)


def test_holm_multiplies_the_smallest_most_and_never_turns_the_order():
    given = [Difference(0.0, 0.0, 0.0, p, p, True) for p in (0.01, 0.04, 0.03, 0.005)]
    assert [found.corrected for found in corrected(given)] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [found.p for found in corrected(given)] == [0.01, 0.04, 0.03, 0.005]
    assert corrected([replace(given[0], p=0.9)] * 2)[1].corrected == 1.0
    assert corrected([]) == []


def test_different_samples_are_refused_with_the_first_stranger():
    scores = planted(np.random.default_rng(5), 0.0)
    fewer = UnitScores(scores.keys[1:], scores.scores[:, 1:])
    with pytest.raises(DataError, match=r"a and b were not scored on the same samples.*1 samples.* the first is k0"):
        one(scores, fewer)
    with pytest.raises(DataError, match="each once"):
        one(UnitScores(("k", "k"), np.zeros((1, 2))), UnitScores(("k",), np.zeros((1, 1))))


def test_the_same_input_gives_the_same_numbers_in_parts_or_whole(monkeypatch):
    rng = np.random.default_rng(6)
    first, second = planted(rng, 0.1), planted(rng, 0.0)
    assert one(first, second) == one(first, second)
    monkeypatch.setattr("evaluation.paired._DRAWN_AT_ONCE", 7 * UNITS)
    assert one(first, second).value == pytest.approx(first.scores.mean() - second.scores.mean())
