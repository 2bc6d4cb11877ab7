"""The page of a study: one HTML file with figure, reading, tables and versions in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from evaluation.page_templates import page_environment
from evaluation.studies.config import StudyConfig
from evaluation.studies.draw import panel_svg
from evaluation.studies.levels import Members
from evaluation.studies.metrics import Panel
from evaluation.studies.read import Report
from evaluation.studies.reading import UNDECIDED, amount, claims, head_readings, readings
from evaluation.studies.trends import HeadGain, Mean, Slope, Trend


@dataclass(frozen=True, slots=True)
class Findings:
    """All that a study found.

    Attributes:
        members: The runs, and those left out.
        reports: The report of every run.
        panels: What the figure shows.
        trends: Metric -> trend, for all metrics of the panels.
        gains: NMTune against its controls.
        notes: What is missing, and why.
    """

    members: Members
    reports: Sequence[Report]
    panels: Sequence[Panel]
    trends: Mapping[str, Trend]
    gains: Sequence[HeadGain]
    notes: Sequence[str]


def render_study(config: StudyConfig, found: Findings) -> str:
    """Return the page.

    Args:
        config: The study.
        found: What it found.

    Returns:
        HTML with styles and plots inside; the same findings give the same text.
    """
    filters: dict[str, Any] = {"interval": _interval, "amount": amount, "value": _value, "noise": _noise, "p": _p}
    figures = [Markup(panel_svg(f"p{n}", panel, found.trends)) for n, panel in enumerate(found.panels)]
    return (
        page_environment(filters)
        .get_template("study.html.j2")
        .render(
            config=config,
            found=found,
            figures=figures,
            levels=[
                (share, [report for report in found.reports if report.member.share == share])
                for share in found.members.shares
            ],
            means={
                metric: {level.share: level.mean for level in trend.levels} for metric, trend in found.trends.items()
            },
            claims=claims(found.trends),
            readings=readings(found.panels, found.trends),
            head_readings=head_readings(found.gains, found.reports),
            undecided=UNDECIDED,
        )
    )


def _noise(share: float) -> str:
    return f"{100 * share:.3g} %"


def _value(value: float, is_share: bool) -> str:
    return f"{100 * value:.1f} %" if is_share else f"{value:.3f}"


def _interval(mean: Mean | Slope, is_share: bool) -> str:
    """Write the ends of an interval of a difference, in points for shares; nothing where there is none."""
    if mean.low is None or mean.high is None:
        return "no interval"
    return f"{amount(mean.low, is_share, False)} to {amount(mean.high, is_share, False)}"


def _p(value: float) -> str:
    return "below 0.001" if value < 0.001 else f"{value:.3f}"
