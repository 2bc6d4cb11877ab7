"""Accuracy by strata of frequency: decades of counts, thirds of the concepts, and the tail as a suite of its own.

Concepts that training never shows are a stratum of their own: the published code takes zero for one, which merges
"never" with "once". Means are over concepts; they are means over images where every class has as many of them.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from assets.sources.base import frequency_thirds
from evaluation.base import Interval
from evaluation.concepts.fits import Counts, Points, Values, interval, redraws
from evaluation.intervals import Bootstrap

THIRDS = ("head", "mid", "tail")
LARGEST_TAIL = 30
_TAIL_SHARE = 10


@dataclass(frozen=True, slots=True)
class Stratum:
    """Concepts of like frequency.

    Attributes:
        name: In words.
        n: How many concepts.
        mean: Their mean score.
        interval: 95 %, bootstrap over concepts.
    """

    name: str
    n: int
    mean: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Gap:
    """How far the rare concepts fall behind.

    Attributes:
        better: The frequent ones.
        worse: The rare ones.
        gap: Difference of their means.
        interval: 95 %, bootstrap over the concepts of both.
        rows: The rare ones, rarest first.
    """

    better: Stratum
    worse: Stratum
    gap: float
    interval: Interval
    rows: npt.NDArray[np.intp]


def by_decade(points: Points, bootstrap: Bootstrap) -> list[Stratum]:
    """Average over concepts never shown, shown 1 to 9 times, 10 to 99 times, and so on; empty strata are left out.

    Args:
        points: The concepts.
        bootstrap: How concepts are drawn anew.
    """
    # by digits, since a logarithm of 1000 may fall short of 3
    digits = np.array([len(str(count)) if count else 0 for count in points.counts.tolist()], dtype=np.int64)
    found: list[Stratum] = []
    for length in np.unique(digits).tolist():
        name = f"{10 ** (length - 1):,} to {10**length - 1:,}" if length else "never shown"
        found.append(_stratum(name, points.scores[digits == length], bootstrap))
    return found


def by_third(points: Points, bootstrap: Bootstrap) -> list[Stratum]:
    """Average over the most frequent third of the concepts, the middle one and the rarest; empty ones are left out.

    Args:
        points: The concepts.
        bootstrap: How concepts are drawn anew.
    """
    thirds = np.array(frequency_thirds(points.counts.tolist()))
    return [_stratum(name, points.scores[thirds == name], bootstrap) for name in THIRDS if (thirds == name).any()]


def head_to_tail(points: Points, bootstrap: Bootstrap) -> Gap | None:
    """Compare the most frequent third of the concepts with the rarest; None for fewer than three concepts.

    Args:
        points: The concepts.
        bootstrap: How concepts are drawn anew.
    """
    thirds = np.array(frequency_thirds(points.counts.tolist()))
    head, tail = np.flatnonzero(thirds == "head"), np.flatnonzero(thirds == "tail")
    if len(points.counts) < len(THIRDS) or not len(head) or not len(tail):
        return None
    return _gap(points, ("head", head), ("tail", tail), bootstrap)


def tail_suite(points: Points, bootstrap: Bootstrap) -> Gap | None:
    """Compare the least frequent concepts, a tenth but at most 30 of them, with the rest; None for a single concept.

    Args:
        points: The concepts; of equal counts the earlier ones go first.
        bootstrap: How concepts are drawn anew.
    """
    size = min(LARGEST_TAIL, max(1, len(points.counts) // _TAIL_SHARE))
    if len(points.counts) < 2:
        return None
    order = np.argsort(points.counts, kind="stable")
    return _gap(points, ("all others", order[size:]), (f"the {size} least frequent", order[:size]), bootstrap)


def sorted_shares(counts: Counts) -> Values:
    """Return counts over the largest, without zeros, in falling order: the long tail as it is drawn.

    Args:
        counts: [n].
    """
    shown = np.sort(counts[counts > 0])[::-1]
    return shown / shown[:1]


def _gap(
    points: Points,
    better: tuple[str, npt.NDArray[np.intp]],
    worse: tuple[str, npt.NDArray[np.intp]],
    bootstrap: Bootstrap,
) -> Gap:
    """Compare two sets of concepts that share none."""
    sides = [points.scores[rows] for _, rows in (better, worse)]
    # each side has draws of its own: of equal numbers of concepts the same draws would pair them
    drawn = [
        _means(scores, Bootstrap(bootstrap.resamples, bootstrap.seed + place)) for place, scores in enumerate(sides)
    ]
    ahead, behind = (_stratum(name, points.scores[rows], bootstrap) for name, rows in (better, worse))
    rows = worse[1][np.argsort(points.counts[worse[1]], kind="stable")]
    return Gap(ahead, behind, ahead.mean - behind.mean, interval(drawn[0] - drawn[1]), rows)


def _means(scores: Values, bootstrap: Bootstrap) -> Values:
    return np.concatenate([scores[rows].mean(axis=1) for rows in redraws(len(scores), bootstrap)])


def _stratum(name: str, scores: Values, bootstrap: Bootstrap) -> Stratum:
    low, high = bootstrap.means(scores[:, None])[0]
    return Stratum(name, len(scores), float(scores.mean()), (float(low), float(high)))
