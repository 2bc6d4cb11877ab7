import numpy as np
import pytest

from assets.validation import candidates
from assets.validation.candidates import TABLES, candidate_pairs, keys
from assets.validation.traits import NUM_MOMENTS, NUM_SIGNS, Traits


def random_traits(rows: int, seed: int = 0) -> Traits:
    rng = np.random.default_rng(seed)
    signs = rng.integers(0, 1 << NUM_SIGNS, rows, dtype=np.uint64)
    return Traits(rng.standard_normal((rows, NUM_MOMENTS)).astype(np.float32), signs)


def perturbed(traits: Traits) -> Traits:
    """The rows, and each again with slightly other moments and up to two other signs."""
    rng = np.random.default_rng(9)
    rows = len(traits.signs)
    noise = rng.normal(0, 0.01, traits.moments.shape).astype(np.float32)
    flips = (np.uint64(1) << rng.integers(0, NUM_SIGNS, (2, rows), dtype=np.uint64)).astype(np.uint64)
    signs = traits.signs ^ (flips[0] | flips[1])
    return Traits(np.concatenate([traits.moments, traits.moments + noise]), np.concatenate([traits.signs, signs]))


@pytest.mark.parametrize(("num_fixed", "others"), [(0, True), (500, True), (500, False)])
@pytest.mark.parametrize("rows", [200, 700])
def test_candidates_are_the_pairs_that_share_a_key_somewhere_or_all_of_few(rows, num_fixed, others):
    traits = perturbed(random_traits(rows // 2))
    met = np.full((rows, rows), rows <= 512)
    for table in range(TABLES):
        key = keys(traits, table, candidates.num_signs_per_key(rows))
        met |= key[:, None] == key
    met &= np.bitwise_count(traits.signs[:, None] ^ traits.signs) <= candidates.MAX_SIGNS_APART
    means = traits.moments[:, :2]
    met &= (abs(means[:, None] - means) <= candidates.MAX_MEANS_APART).all(axis=2)
    place = np.arange(rows)
    met &= (place[:, None] > place) & (place[:, None] >= num_fixed)  # [second, first]
    if not others:
        met &= place < num_fixed
    second, first = np.nonzero(met)
    assert np.array_equal(candidate_pairs(traits, num_fixed, others), np.stack([first, second], axis=1))
    assert len(first) or rows < num_fixed


def test_nearly_all_slightly_changed_rows_are_found_among_thousands():
    traits = perturbed(random_traits(10_000))
    pairs = candidate_pairs(traits, 0, True)
    found = np.isin(np.arange(10_000), pairs[pairs[:, 1] - pairs[:, 0] == 10_000, 0])
    assert found.mean() > 0.98
    assert len(pairs) < 40_000  # of 200 million


def test_a_crowd_of_equal_rows_costs_little_and_all_meet_the_first():
    one = random_traits(1)
    crowd = Traits(np.repeat(one.moments, 3000, axis=0), np.repeat(one.signs, 3000))
    pairs = candidate_pairs(crowd, 0, True)
    assert len(pairs) <= 3000 * (candidates.NEIGHBOURS + 1)
    assert set(pairs[pairs[:, 0] == 0, 1].tolist()) == set(range(1, 3000))


@pytest.mark.parametrize("rows", [0, 1])
def test_few_rows_are_no_problem(rows):
    assert candidate_pairs(random_traits(rows), 0, True).shape == (0, 2)


def test_keys_grow_by_a_sign_when_the_rows_double():
    counts = [candidates.num_signs_per_key(rows) for rows in (10, 1 << 14, 1 << 15, 1 << 20, 15_000_000)]
    assert counts == [4, 4, 5, 10, 13]


def test_candidates_do_not_depend_on_how_many_rows_are_looked_at_at_once(monkeypatch):
    one, traits = random_traits(1), perturbed(random_traits(400))
    crowd = Traits(np.repeat(one.moments, 60, axis=0), np.repeat(one.signs, 60))
    mixed = Traits(np.concatenate([traits.moments, crowd.moments]), np.concatenate([traits.signs, crowd.signs]))
    whole = candidate_pairs(mixed, 0, True)
    monkeypatch.setattr(candidates, "_ROWS_AT_ONCE", 7)
    assert np.array_equal(candidate_pairs(mixed, 0, True), whole)
    assert len(whole) > 60 * candidates.NEIGHBOURS
