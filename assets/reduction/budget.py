"""How much to keep: a count, or a share taken as the decimal number that was written, never as its binary neighbour.

In floating point 0.1 * 30 is a little above 3 and would round up to 4. A share of n is always rounded up, so a share
above 0 of something leaves something, and every policy keeps equally many for the same share.
"""

from fractions import Fraction

from assets.errors import ConfigError, message


def exact(share: float | str | Fraction) -> Fraction:
    """Return a share as the exact fraction that its shortest decimal form names.

    Args:
        share: Above 0 and at most 1, e.g. ``0.25`` or ``"0.25"``.

    Returns:
        The fraction.

    Raises:
        ConfigError: It is no such number.
    """
    try:
        fraction = share if isinstance(share, Fraction) else Fraction(str(share))
    except (ValueError, ZeroDivisionError) as error:
        raise ConfigError(message("a share to keep is not a number", str(share), "one above 0, at most 1")) from error
    if not 0 < fraction <= 1:
        raise ConfigError(message("a share to keep is out of range", str(share), "above 0 and at most 1"))
    return fraction


def share_of(share: float | str | Fraction, size: int) -> int:
    """Return that share of so many rows, rounded up.

    Args:
        share: See :func:`exact`.
        size: Rows, n.

    Returns:
        ceil(share * n).
    """
    fraction = exact(share)
    return -(-fraction.numerator * size // fraction.denominator)


def resolve(keep: float | str | Fraction, pool: int) -> int:
    """Turn what params.yaml says about keeping into a number of pairs.

    Args:
        keep: A count if it is a whole number (``int``), otherwise a share.
        pool: Pairs there are.

    Returns:
        At least 1 where there are pairs, at most ``pool``.

    Raises:
        ConfigError: The count is not positive, or more than there is; or the share is out of range.
    """
    if not isinstance(keep, int):
        return share_of(keep, pool)
    if keep < 1:
        raise ConfigError(message("a number of pairs to keep is out of range", keep, "1 or more"))
    check(keep, pool)
    return keep


def check(budget: int, available: int, where: str = "the pool") -> None:
    """Refuse a budget that cannot be filled.

    Args:
        budget: Pairs asked for.
        available: Pairs there are.
        where: What holds those, for the error.

    Raises:
        ConfigError: There are fewer than asked for.
    """
    if not 0 <= budget <= available:
        what = f"cannot keep {budget} pairs: {where} has {available}"
        raise ConfigError(message(what, budget, f"at most {available}", "lower keep"))
