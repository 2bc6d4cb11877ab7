"""What the numbers of a study of noise say, in sentences that claim no more than their intervals allow."""

import math
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from evaluation.studies.metrics import COVARIANCE, Line, Panel
from evaluation.studies.read import Report
from evaluation.studies.trends import HeadGain, Mean, Slope, Trend

UNDECIDED = "not told apart from zero"


class Claim(NamedTuple):
    """A published claim beside what a study found.

    Attributes:
        text: The claim.
        verdict: ``agrees``, ``disagrees``, or that nothing can be told.
        evidence: The difference that the verdict is read off.
    """

    text: str
    verdict: str
    evidence: str


def _slight(trend: Trend) -> Mean | None:
    return trend.slight


def _per_10_points(trend: Trend) -> Mean | None:
    return None if trend.slope is None else _as_mean(trend, trend.slope)


_CLAIMS: tuple[tuple[str, str, Callable[[Trend], Mean | None], bool, str], ...] = (
    ("slight noise does not hurt a linear probe in-domain", "tuning.in_domain.lp_top1", _slight, False, "seed"),
    ("slight noise hurts it out-of-domain", "tuning.held_out_style.transfer_lp_top1", _slight, True, "seed"),
    ("noise raises SVE", "spectra.*in_domain.num_sve", _per_10_points, False, "run"),
    ("noise raises LSVR", "spectra.*in_domain.num_lsvr", _per_10_points, False, "run"),
)
"""Claim, pattern of its metric, where to look, whether a fall is claimed and not a rise, and what it is taken over."""


def claims(trends: Mapping[str, Trend]) -> list[Claim]:
    """Hold the published claims against what was found, as far as their metrics were measured.

    Args:
        trends: Metric -> trend.
    """
    found: list[Claim] = []
    for text, pattern, look, falls, unit in _CLAIMS:
        metric = next((name for name in trends if fnmatchcase(name, pattern)), None)
        if metric is None or (mean := look(trends[metric])) is None:
            continue
        verdict = "undecided"
        if mean.differs:
            verdict = "agrees" if (mean.value < 0) == falls else "disagrees"
        found.append(Claim(text, verdict, change(mean, not metric.startswith("spectra."), unit)))
    return found


def readings(shown: Sequence[Panel], trends: Mapping[str, Trend]) -> list[str]:
    """Return one sentence or two per metric of the figure.

    Args:
        shown: The panels.
        trends: Metric -> trend.
    """
    return [
        f"{panel.title}, {line.label}: {_of_trend(trends[line.metric], panel.is_share)}"
        for panel, line in _lines(shown)
    ]


def _lines(shown: Sequence[Panel]) -> list[tuple[Panel, Line]]:
    return [(panel, line) for panel in shown for line in panel.lines]


def _of_trend(found: Trend, is_share: bool) -> str:
    """Say what noise does to one metric."""
    parts: list[str] = []
    for name, difference in (
        ("slight noise (10 % or less)", found.slight),
        ("heavy noise (30 % or more)", found.heavy),
    ):
        if difference is not None:
            parts.append(f"{name} changes it by {change(difference, is_share, 'seed')}")
    if found.slope is None:
        parts.append("too few runs for a line through them")
    else:
        mean = _as_mean(found, found.slope)
        parts.append(f"10 points more noise go with {change(mean, is_share, 'run')}")
    return "; ".join(parts) + "."


def _as_mean(found: Trend, slope: Slope) -> Mean:
    return Mean(slope.value, slope.low, slope.high, sum(len(level.values) for level in found.levels))


def change(mean: Mean, is_share: bool, unit: str) -> str:
    """Say how large a difference is, over how much, and whether it is told apart from zero.

    Args:
        mean: The difference.
        is_share: Whether it is one of shares, to be told in points.
        unit: What it was taken over, in the singular.
    """
    text = amount(mean.value, is_share)
    over = f"{mean.num} {unit}{'' if mean.num == 1 else 's'}"
    if mean.low is None or mean.high is None:
        return f"{text} ({over}, so there is no interval and nothing to conclude)"
    text += f" (95 % interval {amount(mean.low, is_share, False)} to {amount(mean.high, is_share, False)}, {over})"
    return text if mean.differs else f"{text}, which is {UNDECIDED}"


def amount(value: float, is_share: bool, with_unit: bool = True) -> str:
    """Write a difference with its sign; one of shares in points.

    Args:
        value: The difference.
        is_share: Whether it is one of shares.
        with_unit: Whether to say that it is in points.
    """
    if not is_share:
        return f"{value:+.3f}"
    return f"{100 * value:+.1f}" + (" points" if with_unit else "")


def head_readings(gains: Sequence[HeadGain], reports: Sequence[Report]) -> list[str]:
    """Say what NMTune gains over its controls, and what its covariance term did.

    Args:
        gains: The comparisons.
        reports: The runs.
    """
    found: list[str] = []
    for gain in gains:
        verdict = ""
        if gain.gain.differs:
            verdict = ": it is better" if gain.gain.value > 0 else ": it is worse"
        found.append(f"{gain.label}: {change(gain.gain, True, 'run')}{verdict}.")
    names = [COVARIANCE.format(head) for head in ("mlp", "nmtune")]
    both = [[report.metrics[name] for name in names] for report in reports if all(n in report.metrics for n in names)]
    ratios = [mlp / nmtune for mlp, nmtune in both if mlp > 0 and nmtune > 0]
    if ratios:
        ratio = math.exp(sum(map(math.log, ratios)) / len(ratios))
        found.append(
            f"The covariance between features of the NMTune head is {ratio:.2g} times smaller than of the MLP "
            f"(geometric mean over {len(ratios)} run{'' if len(ratios) == 1 else 's'})."
        )
    return found
