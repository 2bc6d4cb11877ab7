"""How a metric goes with noise: its mean per level, a line through all runs, and paired differences to no noise.

Runs of one seed start alike and see the pairs in one order, so a difference between two levels is taken within each
seed first; the interval is then Student's t over the seeds. The line is least squares over single runs with all their
scatter: it says how steep the whole range is, not that the way there is straight. Intervals are of 95 %, and none is
corrected for the number of metrics that are looked at.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# scipy has no stubs

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit
from scipy.stats import rankdata

from evaluation.intervals import seed_interval
from evaluation.studies.metrics import CONTROLS, HEAD_METRICS, HEADS
from evaluation.studies.read import Observation, Report, observations

SLIGHT, HEAVY = 0.1, 0.3
"""Noise up to the first counts as slight, from the second on as heavy."""
PER = 0.1
"""Slopes are per so much more noise: 10 points."""
_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean with its 95 % t interval.

    Attributes:
        value: The mean.
        low: Low end, or None where one value has no scatter to judge by.
        high: High end, or None.
        num: How many values: seeds or runs.
    """

    value: float
    low: float | None
    high: float | None
    num: int

    @property
    def differs(self) -> bool:
        """Whether the mean is told apart from zero: its interval is known and does not hold zero."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


@dataclass(frozen=True, slots=True)
class Level:
    """A metric at one level of noise.

    Attributes:
        share: The noise, 0..1.
        mean: Over seeds.
        values: One per run.
    """

    share: float
    mean: Mean
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Slope:
    """A line through all runs.

    Attributes:
        value: Change of the metric per 10 points of noise.
        low: Low end of the 95 % interval.
        high: High end.
        p: Two-sided, against no slope.
    """

    value: float
    low: float
    high: float
    p: float


@dataclass(frozen=True, slots=True)
class Trend:
    """How one metric goes with noise.

    Attributes:
        metric: Dotted name.
        levels: By rising noise.
        slope: None with fewer than three runs or with one level only.
        spearman: Rank correlation of noise and metric over runs; None where one of them is constant.
        slight: Mean over seeds of the slight levels minus no noise; None without such levels in a seed.
        heavy: Likewise of heavy levels.
    """

    metric: str
    levels: tuple[Level, ...]
    slope: Slope | None
    spearman: float | None
    slight: Mean | None
    heavy: Mean | None


@dataclass(frozen=True, slots=True)
class HeadGain:
    """What NMTune gains over another head on the same frozen features.

    Attributes:
        where: ``in-domain`` or ``out-of-domain``.
        control: The other head, a key of ``HEADS``.
        gain: Mean over runs of the difference within each run.
    """

    where: str
    control: str
    gain: Mean

    @property
    def label(self) -> str:
        """The comparison in words."""
        return f"{HEADS['nmtune']} minus {HEADS[self.control]}, {self.where}"


def mean_of(values: Sequence[float]) -> Mean:
    """Return the mean of some values, with an interval where there are two or more."""
    if len(values) < 2:
        return Mean(values[0], None, None, 1)
    return Mean(*seed_interval(values), len(values))


def trend(metric: str, points: Sequence[Observation]) -> Trend:
    """Describe how a metric goes with noise.

    Args:
        metric: Dotted name.
        points: Its value for every run, at least one.
    """
    levels: list[Level] = []
    for share in sorted({point.share for point in points}):
        here = [point for point in points if point.share == share]
        by_seed = [value for _, value in sorted(_by_seed(here).items())]
        levels.append(Level(share, mean_of(by_seed), tuple(point.value for point in here)))
    return Trend(
        metric,
        tuple(levels),
        _slope(points),
        _spearman(points),
        _against_none(points, lambda share: 0 < share <= SLIGHT + _TOLERANCE),
        _against_none(points, lambda share: share >= HEAVY - _TOLERANCE),
    )


def _by_seed(points: Sequence[Observation]) -> dict[int, float]:
    """Return the mean of every seed: two policies of one share count as one."""
    seeds: dict[int, list[float]] = {}
    for point in points:
        seeds.setdefault(point.seed, []).append(point.value)
    return {seed: float(np.mean(values)) for seed, values in seeds.items()}


def _against_none(points: Sequence[Observation], chosen: Callable[[float], bool]) -> Mean | None:
    """Return the mean over seeds of the chosen levels' mean minus the value without noise."""
    none = _by_seed([point for point in points if point.share == 0])
    noisy: dict[int, list[float]] = {}
    for share in sorted({point.share for point in points if chosen(point.share)}):
        for seed, value in _by_seed([point for point in points if point.share == share]).items():
            noisy.setdefault(seed, []).append(value)
    seeds = sorted(set(none) & set(noisy))
    return mean_of([float(np.mean(noisy[seed])) - none[seed] for seed in seeds]) if seeds else None


def _slope(points: Sequence[Observation]) -> Slope | None:
    """Fit a line over single runs by least squares."""
    x = np.array([point.share for point in points]) / PER
    y = np.array([point.value for point in points])
    degrees = len(points) - 2
    x = x - x.mean()
    spread = float(x @ x)
    if degrees < 1 or spread == 0:
        return None
    if np.ptp(y) == 0:  # the rounding of its mean would pass for a slope with a tiny error
        return Slope(0.0, 0.0, 0.0, 1.0)
    value = float(x @ y) / spread
    left = y - y.mean() - value * x
    error = float(np.sqrt(left @ left / degrees / spread))
    half = float(stdtrit(degrees, 0.975)) * error
    if error == 0:
        return Slope(value, value, value, float(value == 0))
    return Slope(value, value - half, value + half, 2 * float(stdtr(degrees, -abs(value) / error)))


def _spearman(points: Sequence[Observation]) -> float | None:
    """Return the rank correlation of noise and value, ties sharing their ranks."""
    shares, values = (rankdata([point[place] for point in points]) for place in (0, 2))
    if np.ptp(shares) == 0 or np.ptp(values) == 0:
        return None
    return float(np.corrcoef(shares, values)[0, 1])


def head_gains(reports: Sequence[Report]) -> list[HeadGain]:
    """Compare NMTune with its controls, run by run, as far as runs have all of them.

    Args:
        reports: The runs.
    """
    found: list[HeadGain] = []
    for where, metric in HEAD_METRICS.items():
        for control in CONTROLS:
            one, other = metric.format("nmtune"), metric.format(control)
            both = [report.metrics for report in reports if one in report.metrics and other in report.metrics]
            if both:
                found.append(HeadGain(where, control, mean_of([run[one] - run[other] for run in both])))
    return found


def all_trends(reports: Sequence[Report], metrics: Sequence[str]) -> dict[str, Trend]:
    """Describe several metrics.

    Args:
        reports: The runs.
        metrics: Dotted names; each is a metric of at least one run.
    """
    return {metric: trend(metric, observations(reports, metric)) for metric in metrics}
