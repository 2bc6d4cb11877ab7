"""How much data a concept needs for a wanted accuracy, or why that cannot be said.

Two lines over log10(count) of the concepts that training shows: ``linear``, accuracy itself by least squares, as
published; and ``logistic``, its log odds by maximum likelihood with as many trials as a concept has test images, since
accuracy ends at one and a straight line does not. A line read backwards gives a count, 10^((A - a) / b). It is refused
where the slope is not known to be above zero, or where the count lies more than two decades outside what was seen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluation.base import Interval
from evaluation.concepts.fits import Counts, Points, Values, decades, interval, least_squares, redraws
from evaluation.intervals import Bootstrap

MOST_DECADES = 2.0
"""How far outside the observed counts a line is read."""
_STEPS = 40
_SETTLED = 1e-10
_STEEPEST = 50.0


@dataclass(frozen=True, slots=True)
class Line:
    """A line over log10(count).

    Attributes:
        link: ``linear`` or ``logistic``.
        intercept: Where count is 1.
        slope: Per ten times the data.
        slope_interval: 95 %, bootstrap over concepts.
        lowest: Smallest log10(count) the line was fitted to, NaN without any.
        highest: Largest.
        drawn: Intercept and slope of every resample, [resamples, 2].
        straighten: Accuracy -> what the line predicts; infinite where no count is enough.
        bend: The other way.
    """

    link: str
    intercept: float
    slope: float
    slope_interval: Interval
    lowest: float
    highest: float
    drawn: Values
    straighten: Callable[[Values], Values]
    bend: Callable[[Values], Values]

    def predict(self, log_counts: Values) -> Values:
        """Return the accuracy at log10(count), [n]."""
        return self.bend(self.intercept + self.slope * log_counts)

    @property
    def refusal(self) -> str | None:
        """Why the line cannot be read backwards at all, or None."""
        low, high = self.slope_interval
        if not np.isfinite([self.slope, low, high]).all():
            return "the line cannot be fitted to these concepts"
        if low <= 0 <= high:
            return f"the slope is not told apart from zero (95 %: {low:.3g} to {high:.3g})"
        return "accuracy falls with frequency here, so more data is no answer" if high < 0 else None


@dataclass(frozen=True, slots=True)
class Need:
    """An answer.

    Attributes:
        target: The accuracy wanted.
        count: Training pairs with the concept, or None where the answer is refused.
        low: Low end of the 95 % interval of the count, or None.
        high: High end; infinite ends are None too.
        sentence: The answer or the refusal in words.
    """

    target: float
    count: float | None
    low: float | None
    high: float | None
    sentence: str


def linear_line(points: Points, bootstrap: Bootstrap) -> Line:
    """Fit a straight line to accuracy.

    Args:
        points: The concepts, scores in 0..1; those never shown are left out.
        bootstrap: How concepts are drawn anew.
    """
    shown = points.take(points.counts > 0)

    def fit(rows: npt.NDArray[np.intp]) -> Values:
        found = least_squares(decades(shown.counts[rows]), shown.scores[rows])
        return np.stack([found["intercept"], found["slope"]], axis=-1)

    return _line("linear", shown.counts, fit, bootstrap, (_same, _same))


def logistic_line(points: Points, trials: Counts, bootstrap: Bootstrap) -> Line:
    """Fit a straight line to the log odds of accuracy.

    Args:
        points: The concepts, scores in 0..1; those never shown are left out.
        trials: Test images of each, [n].
        bootstrap: How concepts are drawn anew.
    """
    is_shown = points.counts > 0
    shown, weights = points.take(is_shown), trials[is_shown].astype(np.float64)

    def fit(rows: npt.NDArray[np.intp]) -> Values:
        return fit_odds(decades(shown.counts[rows]), shown.scores[rows], weights[rows])

    return _line("logistic", shown.counts, fit, bootstrap, (_log_odds, _share))


def fit_odds(x: Values, shares: Values, trials: Values) -> Values:
    """Fit log odds by maximum likelihood, Newton's steps.

    Args:
        x: [..., n].
        shares: Share of right answers, in 0..1, [..., n].
        trials: Answers each share is of, [..., n].

    Returns:
        Intercept and slope, [..., 2]; NaN where they do not settle, as for points that a threshold divides into right
        and wrong.
    """
    found = np.zeros((*x.shape[:-1], 2))
    if x.shape[-1] < 2:
        return found * np.nan
    moved = np.full(x.shape[:-1], np.inf)
    for _ in range(_STEPS):
        share = _share(found[..., :1] + found[..., 1:] * x)
        weights = trials * share * (1 - share)
        missed = trials * (shares - share)
        flat, tilted, steep = ((weights * x**power).sum(axis=-1) for power in range(3))
        first, second = missed.sum(axis=-1), (missed * x).sum(axis=-1)
        area = flat * steep - tilted**2
        area = np.where(area > 1e-12 * np.maximum(flat * steep, 1e-300), area, np.nan)
        step = np.stack([steep * first - tilted * second, flat * second - tilted * first], axis=-1) / area[..., None]
        # a step too far overshoots for good, so none is longer than a few units of log odds
        longest = np.abs(step).max(axis=-1, keepdims=True)
        step = step / np.maximum(longest / 4, 1)
        found = found + step
        moved = np.abs(step).max(axis=-1)
        if not (moved > _SETTLED).any():
            break
    settled = (moved < 1e-6) & (np.abs(found[..., 1]) < _STEEPEST)
    return np.where(settled[..., None], found, np.nan)


def data_needed(line: Line, targets: Sequence[float]) -> list[Need]:
    """Read a line backwards.

    Args:
        line: The line.
        targets: Accuracies wanted, above 0 and below 1.

    Returns:
        One answer per target, refusals included.

    Raises:
        ValueError: A target is no share.
    """
    if strange := [target for target in targets if not 0 < target < 1]:
        raise ValueError(f"targets are shares between 0 and 1, got {strange[0]}; write 0.5 for 50 %")
    return [_need(line, target) for target in targets]


def _need(line: Line, target: float) -> Need:
    wanted = f"{100 * target:g} %"
    if line.refusal is not None:
        return Need(target, None, None, None, f"No number for {wanted}: {line.refusal}.")
    height = float(line.straighten(np.array([target]))[0])
    place = (height - line.intercept) / line.slope
    outside = max(place - line.highest, line.lowest - place)
    if outside > MOST_DECADES:
        side = "above" if place > line.highest else "below"
        seen = f"{10**line.lowest:,.0f} to {10**line.highest:,.0f}"
        words = f"the line reaches it {outside:.1f} decades {side} the counts it was fitted to ({seen})"
        return Need(target, None, None, None, f"No number for {wanted}: {words}; {MOST_DECADES:g} are the most.")
    slopes = line.drawn[:, 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        # a resample whose slope is not above zero never gets there
        places = np.where(slopes > 0, (height - line.drawn[:, 0]) / slopes, np.where(np.isnan(slopes), np.nan, np.inf))
    low, high = _ends(places, line.highest + MOST_DECADES)
    between = f"{_number(low)} to {'more than can be said' if high is None else _number(high)}"
    count = float(10**place)
    how = " (beyond the counts it was fitted to)" if outside > 0 else ""
    return Need(target, count, low, high, f"{wanted} takes about {_number(count)} pairs{how}, 95 %: {between}.")


def _ends(places: Values, furthest: float) -> tuple[float, float | None]:
    """Return the interval of a count from its logarithms; None for an end that is out of reach."""
    known = places[~np.isnan(places)]
    low, high = np.percentile(np.minimum(known, furthest + 1), (2.5, 97.5))
    return float(10**low), None if high > furthest else float(10**high)


def _number(count: float | None) -> str:
    if count is None:
        return "none"
    return "fewer than 1" if count < 1 else f"{float(f'{count:.2g}'):,.0f}"


def _line(
    link: str,
    counts: Counts,
    fit: Callable[[npt.NDArray[np.intp]], Values],
    bootstrap: Bootstrap,
    ways: tuple[Callable[[Values], Values], Callable[[Values], Values]],
) -> Line:
    """Fit a line to the concepts, and to every resample of them."""
    n = len(counts)
    intercept, slope = fit(np.arange(n))
    drawn = np.concatenate([fit(rows) for rows in redraws(n, bootstrap)]) if n else np.empty((0, 2))
    places = decades(counts) if n else np.array([np.nan])
    ends = float(places.min()), float(places.max())
    return Line(link, float(intercept), float(slope), interval(drawn[:, 1]), *ends, drawn, *ways)


def _same(values: Values) -> Values:
    return values


def _log_odds(shares: Values) -> Values:
    return np.log(shares / (1 - shares))


def _share(odds: Values) -> Values:
    return 1 / (1 + np.exp(-np.clip(odds, -500, 500)))
