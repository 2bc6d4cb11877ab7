"""How accuracy goes with the frequency of a concept in training: four fits, all of them always reported.

The four (arXiv 2404.04125 and its code, which plots the first one only):

- ``binned_pearson``: x = ln(max(count, 1)) is cut at equally spaced edges, bins closed on the right, so that the first
  one holds the rarest count alone. Scores are averaged per bin; reported is Pearson's r between edges and means without
  the first and the last bin. It asks whether *means* lie on a line, and is near 1 however much single concepts scatter.
- ``concept_level``: least squares of the score on log10(count) over the concepts that training shows. The slope is what
  ten times the data buys; r squared is the share of the differences between concepts that frequency explains.
- ``spearman``: rank correlation over all concepts, those never shown included; beside it Pearson's r with zero taken
  as one, as the published code takes it.
- ``within_data_set``: the same line after the mean of each pool of concepts is taken away from both sides. Pools that
  differ in difficulty and in frequency at once would otherwise pass for a law.

Where a fit has no value (constant input, too few concepts) it is NaN, and so is an interval of which more than a tenth
of the resamples have none. Empty bins are NaN and left out; the published code either fails on them or counts them as
zero.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# scipy has no stubs

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr
from scipy.stats import rankdata

from evaluation.base import Interval
from evaluation.intervals import Bootstrap

CLASSIFICATION_BINS = 12
RETRIEVAL_BINS = 7
FITS = ("binned_pearson", "concept_level", "spearman", "within_data_set")
_LEVELS = (2.5, 97.5)
_DRAWN_AT_ONCE = 1 << 17
_LACKING = 0.1
_ROUNDING = 1e-12
Counts = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Points:
    """Concepts with their frequency and score.

    Attributes:
        counts: How often training shows each, [n].
        scores: What the model gets on each, in any unit, no NaN, [n].
        pools: The pool each belongs to, such as its data set or its group, numbered from 0, [n].
    """

    counts: Counts
    scores: Values
    pools: Counts

    def take(self, rows: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> "Points":
        """Return some of the concepts; rows may have more than one dimension."""
        return Points(self.counts[rows], self.scores[rows], self.pools[rows])


@dataclass(frozen=True, slots=True)
class Fit:
    """One fit.

    Attributes:
        n: What was fitted: bins or concepts.
        p: Two-sided p of the fit's correlation against none, or NaN.
        values: Name -> value: ``r``, ``rho``, ``slope`` (per ten times the data), ``intercept``, ``stderr`` ...
        intervals: Name -> 95 % bootstrap interval over concepts.
    """

    n: int
    p: float
    values: dict[str, float]
    intervals: dict[str, Interval]


@dataclass(frozen=True, slots=True)
class Bins:
    """Scores averaged over bins of frequency.

    Attributes:
        edges: Upper edges in ln(max(count, 1)), [..., bins].
        means: Mean score, NaN for empty bins, [..., bins].
        stds: Population standard deviation, NaN for empty bins, [..., bins].
        sizes: Concepts in each, [..., bins].
    """

    edges: Values
    means: Values
    stds: Values
    sizes: Counts

    @property
    def used(self) -> npt.NDArray[np.bool_]:
        """Which bins the correlation is taken over, [..., bins]."""
        inner = self.sizes > 0
        inner[..., [0, -1]] = False
        return inner


def cut_bins(counts: Counts, scores: Values, bins: int) -> Bins:
    """Average scores over bins of frequency.

    Args:
        counts: [..., n], n at least 1; each row is cut on its own.
        scores: [..., n].
        bins: How many, at least 2.

    Returns:
        The bins; every concept of a row is in exactly one.
    """
    places = np.log(np.maximum(counts, 1))
    edges = np.linspace(places.min(axis=-1), places.max(axis=-1), bins, axis=-1)  # [..., bins]
    # as many edges as lie below: the first edge at or above it
    found = np.minimum((places[..., None] > edges[..., None, :]).sum(axis=-1), bins - 1)  # [..., n]
    rows = found.reshape(-1, found.shape[-1])
    flat = (rows + bins * np.arange(len(rows))[:, None]).ravel()
    sizes = np.bincount(flat, minlength=bins * len(rows))
    with np.errstate(invalid="ignore"):  # an empty bin is 0 / 0, which is NaN, as wanted
        means = np.bincount(flat, scores.ravel(), bins * len(rows)) / sizes
        stds = np.sqrt(np.bincount(flat, (scores.ravel() - means[flat]) ** 2, bins * len(rows)) / sizes)
    return Bins(edges, means.reshape(edges.shape), stds.reshape(edges.shape), sizes.reshape(edges.shape))


def fit_all(points: Points, bins: int, bootstrap: Bootstrap) -> dict[str, Fit]:
    """Make the four fits.

    Args:
        points: The concepts.
        bins: Bins of the first fit: ``CLASSIFICATION_BINS`` or ``RETRIEVAL_BINS``, as published.
        bootstrap: How concepts are drawn anew.

    Returns:
        Name of the fit, as in ``FITS`` -> the fit.
    """
    shown = points.take(points.counts > 0)
    used = int(cut_bins(points.counts, points.scores, bins).used.sum()) if len(points.counts) else 0
    pools = len(np.unique(points.pools))
    return {
        "binned_pearson": _fit(points, lambda drawn: {"r": _binned_r(drawn, bins)}, used, used - 2, bootstrap),
        "concept_level": _fit(shown, _concept_level, len(shown.counts), len(shown.counts) - 2, bootstrap),
        "spearman": _fit(points, _with_zeros, len(points.counts), len(points.counts) - 2, bootstrap),
        # every pool's mean is estimated too, which takes a degree of freedom
        "within_data_set": _fit(points, _within, len(points.counts), len(points.counts) - pools - 1, bootstrap),
    }


def least_squares(x: Values, y: Values) -> dict[str, Values]:
    """Fit lines.

    Args:
        x: [..., n].
        y: [..., n].

    Returns:
        ``slope``, ``intercept``, ``r`` and ``stderr`` of the slope, [...] each. Constant y has slope 0 and r NaN;
        constant x, or fewer than two points, has NaN throughout.
    """
    n = x.shape[-1]
    if n < 2:
        return {name: np.full(x.shape[:-1], np.nan) for name in ("slope", "intercept", "r", "stderr")}
    x_mean, y_mean = x.mean(axis=-1), y.mean(axis=-1)
    x_away, y_away = x - x_mean[..., None], y - y_mean[..., None]
    # by range, since rounding leaves a spread to what is constant
    x_spread = np.where(np.ptp(x, axis=-1) > 0, (x_away**2).sum(axis=-1), np.nan)
    y_varies = np.ptp(y, axis=-1) > 0
    y_spread = np.where(y_varies, (y_away**2).sum(axis=-1), np.nan)
    both = np.where(y_varies, (x_away * y_away).sum(axis=-1), 0.0)
    slope = both / x_spread
    r = np.clip(both / np.sqrt(x_spread * y_spread), -1.0, 1.0)
    left = np.where(y_varies, (1 - r**2) * y_spread, 0.0 * x_spread)
    stderr = np.sqrt(left / x_spread / (n - 2)) if n > 2 else np.full(slope.shape, np.nan)
    return {"slope": slope, "intercept": y_mean - slope * x_mean, "r": r, "stderr": stderr}


def two_sided_p(r: float, degrees: int) -> float:
    """Return the p of a correlation against none.

    Args:
        r: The correlation.
        degrees: Degrees of freedom, points less 2 for a plain one.

    Returns:
        By Student's t; NaN when r is, or when no degree of freedom is left.
    """
    if degrees < 1 or not np.isfinite(r):
        return float("nan")
    if abs(r) >= 1:
        return 0.0
    return float(2 * stdtr(degrees, -abs(r) * np.sqrt(degrees / (1 - r**2))))


def redraws(n: int, bootstrap: Bootstrap) -> Iterator[npt.NDArray[np.intp]]:
    """Yield rows drawn with replacement, a few resamples at a time, [resamples, n]; the same for the same n."""
    rng = np.random.default_rng([bootstrap.seed, n])
    left = bootstrap.resamples
    while left:
        some = min(left, max(1, _DRAWN_AT_ONCE // n))
        yield rng.integers(0, n, size=(some, n))
        left -= some


def interval(drawn: Values) -> Interval:
    """Return the 95 % percentile interval of a value over resamples, [resamples]; NaN where too many have none."""
    finite = drawn[np.isfinite(drawn)]
    if len(finite) < (1 - _LACKING) * len(drawn) or not len(finite):
        return float("nan"), float("nan")
    low, high = np.percentile(finite, _LEVELS)
    return float(low), float(high)


def decades(counts: Counts) -> Values:
    """Return log10(max(count, 1))."""
    return np.log10(np.maximum(counts, 1))


def _fit(
    points: Points, statistic: Callable[[Points], dict[str, Values]], n: int, degrees: int, bootstrap: Bootstrap
) -> Fit:
    """Fit, and fit again to every resample; the first correlation of the statistic has the p."""
    values = {name: float(value) for name, value in statistic(points).items()}
    parts: dict[str, list[Values]] = {name: [] for name in values}
    if len(points.counts):
        for rows in redraws(len(points.counts), bootstrap):
            for name, drawn in statistic(points.take(rows)).items():
                parts[name].append(drawn)
    intervals = {name: interval(np.concatenate(drawn or [np.empty(0)])) for name, drawn in parts.items()}
    correlation = next(value for name, value in values.items() if name in ("r", "rho"))
    return Fit(n, two_sided_p(correlation, degrees), values, intervals)


def _binned_r(points: Points, bins: int) -> Values:
    """Correlate bins of each row of concepts, [...]."""
    if not points.counts.shape[-1]:
        return np.full(points.counts.shape[:-1], np.nan)
    cut = cut_bins(points.counts, points.scores, bins)
    weights, means = cut.used.astype(np.float64), np.where(cut.used, cut.means, 0.0)
    used = weights.sum(axis=-1, keepdims=True)
    safe = np.maximum(used, 1)
    x_away = weights * (cut.edges - (weights * cut.edges).sum(axis=-1, keepdims=True) / safe)
    y_away = weights * (means - means.sum(axis=-1, keepdims=True) / safe)
    # what is left of equal means by rounding would pass for spread
    y_away[np.abs(y_away) < _ROUNDING * np.abs(means).max(axis=-1, keepdims=True)] = 0.0
    spread = (x_away**2).sum(axis=-1) * (y_away**2).sum(axis=-1)
    is_line = (used[..., 0] > 2) & (spread > 0)  # two points are always on a line
    return (x_away * y_away).sum(axis=-1) / np.sqrt(np.where(is_line, spread, np.nan))


def _concept_level(points: Points) -> dict[str, Values]:
    return least_squares(decades(points.counts), points.scores)


def _with_zeros(points: Points) -> dict[str, Values]:
    if not points.counts.shape[-1]:
        nothing = np.full(points.counts.shape[:-1], np.nan)
        return {"rho": nothing, "r_zero_as_one": nothing}
    ranked = least_squares(rankdata(points.counts, axis=-1), rankdata(points.scores, axis=-1))["r"]
    return {"rho": ranked, "r_zero_as_one": least_squares(decades(points.counts), points.scores)["r"]}


def _within(points: Points) -> dict[str, Values]:
    x, y = (_centred(values, points.pools) for values in (decades(points.counts), points.scores))
    found = least_squares(x, y)
    return {name: found[name] for name in ("r", "slope")}


def _centred(values: Values, pools: Counts) -> Values:
    """Take each pool's mean away, within each row, [..., n]."""
    if not values.size:
        return values
    rows = values.reshape(-1, values.shape[-1])
    size = int(pools.max()) + 1
    places = pools.reshape(rows.shape) + size * np.arange(len(rows))[:, None]
    sums = np.bincount(places.ravel(), rows.ravel(), size * len(rows))
    sizes = np.bincount(places.ravel(), minlength=size * len(rows))
    away = rows - (sums / np.maximum(sizes, 1))[places]
    # what is left of equal values by rounding would pass for spread
    away[np.abs(away) < _ROUNDING * np.abs(rows).max()] = 0.0
    return away.reshape(values.shape)
