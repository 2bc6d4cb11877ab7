"""Paired comparison of recipes: the same images or queries, scored by both, so that their common difficulty drops out.

A difference is the mean over units (images or queries) of the score's mean over the seeds of one recipe minus that of
the other. Two kinds of luck blur it, and each draw of the difference has both:

- the units: they are drawn anew with replacement, the same ones for all recipes;
- the seeds: Student's t times the standard error that the scores of single seeds show, with one variance for both
  recipes. Redrawing two or three seeds in a nested bootstrap would be too narrow by far.

The scores of single seeds scatter also because seeds disagree on single units. The bootstrap over units has that part
in it too, so it is taken out there (the interaction of seeds and units, as in an analysis of variance) and left to t,
whose few degrees of freedom are the honest ones. Where both recipes have one seed only, nothing is known of the luck of
training: the interval is over units alone, and says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from assets.errors import DataError, message

DRAWS = 10_000
LEVEL = 0.05
_SEED = 0
_DRAWN_AT_ONCE = 1 << 22

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class UnitScores:
    """The scores of one recipe under one metric.

    Attributes:
        keys: The units, each once, in any order.
        scores: Score of every unit by the model of every seed, [seeds, units].
    """

    keys: tuple[str, ...]
    scores: Floats


@dataclass(frozen=True, slots=True)
class Difference:
    """How much better one recipe is than another.

    Attributes:
        value: Mean difference of the scores.
        low: Low end of its 95 % interval.
        high: High end.
        p: Two-sided: how often luck alone would give a difference this far from zero; at least 2 / (draws + 1).
        corrected: The same after Holm's correction over all differences that stand together.
        knows_seeds: Whether the luck of training is in; not where both recipes have one seed only.
    """

    value: float
    low: float
    high: float
    p: float
    corrected: float
    knows_seeds: bool

    @property
    def is_significant(self) -> bool:
        """Whether the two are told apart at 5 % after the correction."""
        return self.corrected < LEVEL


def compare_pairs(
    scores: Mapping[str, UnitScores], pairs: Sequence[tuple[str, str]], draws: int = DRAWS
) -> list[Difference]:
    """Compare pairs of recipes on one metric.

    Args:
        scores: Label of a recipe -> its scores.
        pairs: Labels; each difference is the first minus the second.
        draws: How many times luck is drawn.

    Returns:
        One difference per pair, corrected over these pairs; the same input gives the same numbers.

    Raises:
        DataError: Two recipes were scored on different units, or there are fewer than two.
    """
    labels = list(dict.fromkeys(label for pair in pairs for label in pair))
    aligned = align({label: scores[label] for label in labels})
    if not labels:
        return []
    means = np.stack([part.mean(axis=0) for part in aligned.values()], axis=1)  # [units, recipes]
    drawn = _unit_draws(means, draws)  # [draws, recipes]
    place = {label: number for number, label in enumerate(labels)}
    found: list[Difference] = []
    for one, other in pairs:
        units = drawn[:, place[one]] - drawn[:, place[other]]
        found.append(_difference(aligned[one], aligned[other], units))
    return corrected(found)


def align(scores: Mapping[str, UnitScores]) -> dict[str, Floats]:
    """Bring all scores into the order of the first one's keys.

    Args:
        scores: Label -> scores of units.

    Returns:
        Label -> scores in the order of the first one's keys, [seeds, units].

    Raises:
        DataError: The keys are not the same, or fewer than two, or not each there once.
    """
    aligned: dict[str, Floats] = {}
    first: tuple[str, UnitScores] | None = None
    for label, part in scores.items():
        first = first or (label, part)
        wanted = first[1].keys
        if strange := sorted(set(wanted) ^ set(part.keys)):
            what = f"{first[0]} and {label} were not scored on the same samples, so they cannot be compared in pairs"
            got = f"{len(strange)} samples that only one of them has, the first is {strange[0]}"
            raise DataError(message(what, got, "the same keys", "evaluate both anew on one version of the data"))
        if len(set(part.keys)) != len(part.keys) or len(part.keys) < 2:
            what = f"{label}: paired comparison needs at least two samples, each once"
            raise DataError(message(what, f"{len(set(part.keys))} in {len(part.keys)} rows", fix="evaluate anew"))
        rows = {key: row for row, key in enumerate(part.keys)}
        aligned[label] = part.scores[:, [rows[key] for key in wanted]]
    return aligned


def _unit_draws(means: Floats, draws: int) -> Floats:
    """Return the means of the columns over units drawn with replacement, [draws, columns]."""
    units = len(means)
    rng = np.random.default_rng([_SEED, units])
    parts: list[Floats] = []
    left = draws
    while left:
        now = min(left, max(1, _DRAWN_AT_ONCE // units))
        picks = rng.integers(0, units, size=(now, units)) + units * np.arange(now)[:, None]
        counts = np.bincount(picks.ravel(), minlength=now * units).reshape(now, units)
        parts.append(counts @ means / units)
        left -= now
    return np.concatenate(parts)


def _difference(one: Floats, other: Floats, units: Floats) -> Difference:
    """Join both kinds of luck.

    Args:
        one: Scores of the first recipe, [seeds, units].
        other: Scores of the second recipe, in the same order of units, [seeds, units].
        units: Difference of the means over drawn units, [draws].
    """
    per_unit = one.mean(axis=0) - other.mean(axis=0)
    value = float(per_unit.mean())
    degrees = len(one) + len(other) - 2
    deviations = units - value
    if degrees:
        share = 1 / len(one) + 1 / len(other)
        error = np.sqrt(_pooled([part.mean(axis=1, keepdims=True) for part in (one, other)], degrees) * share)
        inner = _pooled([_residuals(part) for part in (one, other)], degrees * (one.shape[1] - 1)) * share
        spread = float(per_unit.var(ddof=1))
        own = max(0.0, 1.0 - inner / spread) if spread > 0 else 0.0
        rng = np.random.default_rng([_SEED, len(units), degrees])
        deviations = np.sqrt(own) * deviations + error * rng.standard_t(degrees, size=len(units))
    drawn = value + deviations
    low, high = np.percentile(drawn, (2.5, 97.5))
    beyond = 1 + min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    p = min(1.0, 2 * beyond / (len(drawn) + 1))
    return Difference(value, float(low), float(high), p, p, degrees > 0)


def _residuals(scores: Floats) -> Floats:
    """Return what neither the seed nor the unit explains, [seeds, units]."""
    return scores - scores.mean(axis=0) - scores.mean(axis=1, keepdims=True) + scores.mean()


def _pooled(parts: Sequence[Floats], degrees: int) -> float:
    """Return the variance around each part's mean over seeds."""
    return sum(float(((part - part.mean(axis=0)) ** 2).sum()) for part in parts) / degrees


def corrected(differences: Sequence[Difference]) -> list[Difference]:
    """Correct p values for looking at all of these differences, after Holm (1979).

    The smallest of m is multiplied by m, the next by m - 1, and so on, and none gets below an earlier one. The chance
    that any of them is called significant by luck alone stays below the level.

    Args:
        differences: All that are shown together.
    """
    order = sorted(range(len(differences)), key=lambda place: differences[place].p)
    values = [0.0] * len(differences)
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(differences) - rank) * differences[place].p))
        values[place] = largest
    return [
        Difference(one.value, one.low, one.high, one.p, value, one.knows_seeds)
        for one, value in zip(differences, values, strict=True)
    ]
