from fractions import Fraction

import pytest

from assets.errors import ConfigError
from assets.reduction.budget import check, exact, resolve, share_of


def test_a_share_is_the_decimal_that_was_written():
    assert exact(0.1) == exact("0.1") == Fraction(1, 10)
    assert exact(1e-3) == Fraction(1, 1000)
    assert exact(Fraction(1, 3)) == Fraction(1, 3)
    # the float next to 0.1 is above it, and 0.1 of 30 would be 4
    assert share_of(0.1, 30) == 3
    assert share_of(0.7, 10) == 7
    assert share_of(0.29, 100) == 29


def test_shares_are_rounded_up():
    assert [share_of(0.25, size) for size in range(9)] == [0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert share_of("0.25", 2_690_757) == 672_690


def test_whole_numbers_are_counts_and_others_shares():
    assert resolve(3, 10) == 3
    assert resolve(10, 10) == 10
    assert resolve(1, 10) == 1
    assert resolve(1.0, 10) == 10
    assert resolve("0.25", 10) == 3


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, "0", "2"])
def test_shares_out_of_range_are_refused(share):
    with pytest.raises(ConfigError, match=r"out of range, got .*, wanted above 0 and at most 1"):
        exact(share)


def test_what_is_no_number_is_refused():
    with pytest.raises(ConfigError, match="is not a number, got 'a quarter'"):
        exact("a quarter")


def test_counts_that_cannot_be_kept_are_refused():
    with pytest.raises(ConfigError, match="cannot keep 11 pairs: the pool has 10, got 11, wanted at most 10; lower"):
        resolve(11, 10)
    with pytest.raises(ConfigError, match="got 0, wanted 1 or more"):
        resolve(0, 10)
    with pytest.raises(ConfigError, match="the better half has 2"):
        check(3, 2, "the better half")
