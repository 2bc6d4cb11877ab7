import pytest

from assets.errors import ConfigError
from assets.reduction.hash_order import key_hashes, ranks
from assets.reduction.random_subset import keep

KEYS = [f"key-{number}" for number in range(4000)]


def places(seed):
    return ranks(KEYS, key_hashes(KEYS, seed))


def test_a_subset_is_that_of_the_smallest_hashes():
    hashes = key_hashes(KEYS, 3)
    kept = keep(places(3), 1000)
    assert kept.sum() == 1000
    assert hashes[kept].max() < hashes[~kept].min()


def test_larger_subsets_contain_smaller_ones():
    order = places(0)
    assert not (keep(order, 10) & ~keep(order, 400)).any()
    assert keep(order, 4000).all()


def test_seeds_draw_independent_subsets():
    both = (keep(places(0), 1000) & keep(places(1), 1000)).sum()
    # hypergeometric: mean 250, deviation 12
    assert abs(both - 250) < 60


def test_a_subset_larger_than_the_pool_is_refused():
    with pytest.raises(ConfigError, match="cannot keep 4001 pairs: the pool has 4000"):
        keep(places(0), 4001)
