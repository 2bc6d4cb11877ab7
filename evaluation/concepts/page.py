"""The report of concepts as one HTML file with everything in it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from assets.concepts.folder import ConceptTable
from evaluation.base import Interval
from evaluation.concepts.analysis import GroupReport
from evaluation.concepts.draw import long_tail_panel, scatter_panel, thirds_panel, tints_of
from evaluation.concepts.fits import FITS
from evaluation.concepts.trained import SIDES
from evaluation.page_templates import page_environment
from evaluation.wording import metric_words, percent, plain, quantity

SHOWN = {
    "binned_pearson": ("r",),
    "concept_level": ("slope", "intercept", "r", "stderr"),
    "spearman": ("rho", "r_zero_as_one"),
    "within_data_set": ("slope", "r"),
}
"""Fit -> its values on the page."""
WORDS = {
    "binned_pearson": "means of bins (as published)",
    "concept_level": "single concepts, shown at least once",
    "spearman": "ranks, never shown included",
    "within_data_set": "within groups of concepts",
    "r_zero_as_one": "r with 0 as 1",
    "stderr": "standard error",
}
_POINTS = frozenset({"slope", "intercept", "stderr"})
"""Values in the unit of the score, which the page writes in percent points."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the page says of the data.

    Attributes:
        name: Of the entry in ``concepts``.
        dataset: The data set.
        table: All concepts with their counts over all accepted pairs.
        summary: The content of summary.json.
        versions: What was read -> its version.
    """

    name: str
    dataset: str
    table: ConceptTable
    summary: Mapping[str, Any]
    versions: Mapping[str, str]

    @property
    def counts(self) -> dict[str, Any]:
        """Side -> count of each concept, for the sides that were looked at."""
        found = {"joint": self.table.joint, "text": self.table.text, "image": self.table.image}
        return {side: found[side] for side in SIDES if self.table.has_images or side == "text"}


def render(facts: Facts, reports: Sequence[GroupReport]) -> str:
    """Return the page.

    Args:
        facts: Of the data.
        reports: The groups, best first.

    Returns:
        HTML with styles, script and plots inside; the same results give the same text.
    """
    filters: dict[str, Callable[..., Any]] = {
        "percent": percent,
        "quantity": quantity,
        "words": metric_words,
        "plain": plain,
        "number": number,
        "spread": spread,
        "small": small,
    }
    return (
        page_environment(filters)
        .get_template("concepts.html.j2")
        .render(
            facts=facts,
            reports=reports,
            tints=tints_of(reports),
            fits=FITS,
            shown=SHOWN,
            fit_words=WORDS,
            points=_POINTS,
            side=reports[0].frequencies.side,
            figures=_figures(facts, reports),
            tail_names={report.group.label: _tail_names(report, facts) for report in reports},
            rows=_concept_rows(facts, reports),
            measures=_classifications(reports),
        )
    )


def number(value: float, in_points: bool = False) -> str:
    """Write a number of a fit, or a dash where there is none.

    Args:
        value: The number, may be NaN.
        in_points: Whether it is a difference of scores, to be written in percent points.
    """
    if not math.isfinite(value):
        return "\u2013"
    return f"{100 * value:.1f}" if in_points else f"{value:.2f}"


def spread(bounds: Interval, in_points: bool = False) -> str:
    """Write an interval, or nothing where there is none."""
    return f"{number(bounds[0], in_points)} to {number(bounds[1], in_points)}" if math.isfinite(sum(bounds)) else ""


def small(p: float) -> str:
    """Write a p value."""
    if not math.isfinite(p):
        return "\u2013"
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def _classifications(reports: Sequence[GroupReport]) -> list[str]:
    """Return the measures on classes that any group has."""
    found = {finding.measure: None for report in reports for finding in report.findings if finding.is_classification}
    return list(found)


def _figures(facts: Facts, reports: Sequence[GroupReport]) -> dict[str, Any]:
    tints = tints_of(reports)
    scatters = {
        report.group.label: [
            Markup(
                scatter_panel(f"g{place}-s{i}", metric_words(f"{finding.measure}"), finding, tints[report.group.label])
            )
            for i, finding in enumerate(report.findings)
        ]
        for place, report in enumerate(reports)
    }
    thirds: list[Markup] = []
    for i, measure in enumerate(_classifications(reports)):
        strata = {
            report.group.label: finding.thirds
            for report in reports
            for finding in report.findings
            if finding.measure == measure
        }
        thirds.append(Markup(thirds_panel(f"t{i}", metric_words(measure), strata, tints)))
    tail = Markup(long_tail_panel("tail", "Long tail of concepts", facts.counts))
    return {"scatters": scatters, "thirds": thirds, "tail": [tail]}


def _tail_names(report: GroupReport, facts: Facts) -> list[str]:
    """Name the tail suite of a group's first measure, rarest first."""
    if not report.findings or (tail := report.findings[0].tail) is None:
        return []
    return [facts.table.names[row] for row in report.findings[0].rows[tail.rows].tolist()]


def _concept_rows(facts: Facts, reports: Sequence[GroupReport]) -> list[dict[str, Any]]:
    """Return one row per concept, the most frequent first: counts over all pairs, and each group's first measure."""
    scores = [report.measures[report.findings[0].measure].scores if report.findings else None for report in reports]
    side = reports[0].frequencies.side
    falling = sorted(range(len(facts.table.names)), key=lambda row: (-int(facts.counts[side][row]), row))
    return [
        {
            "name": facts.table.names[row],
            "group": facts.table.groups[row],
            "counts": [int(counts[row]) for counts in facts.counts.values()],
            "scores": [None if found is None or math.isnan(found[row]) else float(found[row]) for found in scores],
        }
        for row in falling
    ]
