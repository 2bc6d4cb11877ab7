"""Everything the report says of one group of runs, as numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluation.concepts.fits import Counts, Fit, Points, fit_all
from evaluation.concepts.needed import Line, Need, data_needed, linear_line, logistic_line
from evaluation.concepts.report_config import TARGETS, RunGroup
from evaluation.concepts.strata import Gap, Stratum, by_decade, by_third, head_to_tail, tail_suite
from evaluation.concepts.trained import Frequencies, Measure
from evaluation.intervals import Bootstrap


@dataclass(frozen=True, slots=True)
class Finding:
    """One measure of one group against frequency.

    Attributes:
        measure: Dotted name.
        is_classification: Whether it is accuracy on classes, which strata, lines and tables are made of.
        rows: The concepts that were tested, as places in the list of concepts, [n].
        points: Their counts and scores.
        bins: Of the binned fit.
        fits: Side of the counts -> name of the fit -> the fit.
        decades: Means by count.
        thirds: Means by rank.
        gap: Head against tail.
        tail: The least frequent against the rest.
        lines: The two lines over log10(count).
        needs: Link of a line -> how much data each target takes.
    """

    measure: str
    is_classification: bool
    rows: npt.NDArray[np.intp]
    points: Points
    bins: int
    fits: Mapping[str, Mapping[str, Fit]]
    decades: Sequence[Stratum]
    thirds: Sequence[Stratum]
    gap: Gap | None
    tail: Gap | None
    lines: Sequence[Line]
    needs: Mapping[str, Sequence[Need]]


@dataclass(frozen=True, slots=True)
class GroupReport:
    """One group of runs.

    Attributes:
        group: The runs.
        frequencies: What they were trained on.
        measures: Name -> scores per concept.
        findings: One per measure with at least one tested concept, classification first.
        notes: What was left out.
    """

    group: RunGroup
    frequencies: Frequencies
    measures: Mapping[str, Measure]
    findings: Sequence[Finding]
    notes: Sequence[str]

    @property
    def mean(self) -> float:
        """Mean score of the first measure over concepts, which orders groups."""
        return float(self.findings[0].points.scores.mean()) if self.findings else 0.0


def analyse(
    group: RunGroup,
    frequencies: Frequencies,
    measures: Mapping[str, Measure],
    pools: Counts,
    notes: Sequence[str],
    bootstrap: Bootstrap,
) -> GroupReport:
    """Set every measure of a group against frequency.

    Args:
        group: The runs.
        frequencies: How often their training shows each of K concepts.
        measures: Name -> scores per concept.
        pools: The group of concepts that each belongs to, [K].
        notes: What was left out when scores were read.
        bootstrap: How concepts are drawn anew.
    """
    # what is like training comes first, classes before retrieval
    order = sorted(measures, key=lambda name: (not name.startswith("zero_shot."), "in_domain" not in name, name))
    findings = [
        _finding(name, measures[name], frequencies, pools, bootstrap)
        for name in order
        if not np.isnan(measures[name].scores).all()
    ]
    return GroupReport(group, frequencies, measures, findings, (*frequencies.notes, *notes))


def _finding(name: str, measure: Measure, frequencies: Frequencies, pools: Counts, bootstrap: Bootstrap) -> Finding:
    rows = np.flatnonzero(~np.isnan(measure.scores))
    sides = {
        side: Points(counts[rows], measure.scores[rows], pools[rows]) for side, counts in frequencies.counts.items()
    }
    points = sides[frequencies.side]
    lines = (linear_line(points, bootstrap), logistic_line(points, measure.trials[rows], bootstrap))
    return Finding(
        measure=name,
        is_classification=name.startswith("zero_shot."),
        rows=rows,
        points=points,
        bins=measure.bins,
        fits={side: fit_all(one, measure.bins, bootstrap) for side, one in sides.items()},
        decades=by_decade(points, bootstrap),
        thirds=by_third(points, bootstrap),
        gap=head_to_tail(points, bootstrap),
        tail=tail_suite(points, bootstrap),
        lines=lines,
        needs={line.link: data_needed(line, TARGETS) for line in lines},
    )


def fits_as_json(reports: Sequence[GroupReport], side: str) -> dict[str, Any]:
    """Return all fits on one side of the counts: group -> measure -> fit -> numbers; NaN becomes None.

    Args:
        reports: The groups.
        side: One of ``SIDES``.
    """
    return {
        report.group.label: {
            finding.measure: {name: _fit_as_json(fit) for name, fit in finding.fits[side].items()}
            for finding in report.findings
        }
        for report in reports
    }


def few_numbers(reports: Sequence[GroupReport]) -> dict[str, dict[str, dict[str, float]]]:
    """Return what is worth following over time: group -> suite -> slope, r, rho, tail gap; those that exist.

    Args:
        reports: The groups.
    """
    return {
        report.group.label: {
            finding.measure: _few(finding, report.frequencies.side)
            for finding in report.findings
            if finding.is_classification
        }
        for report in reports
    }


def _few(finding: Finding, side: str) -> dict[str, float]:
    fits = finding.fits[side]
    found = {
        "binned_r": fits["binned_pearson"].values["r"],
        "slope": fits["concept_level"].values["slope"],
        "r": fits["concept_level"].values["r"],
        "rho": fits["spearman"].values["rho"],
        "within_r": fits["within_data_set"].values["r"],
        "tail_gap": float("nan") if finding.gap is None else finding.gap.gap,
        "num_concepts": len(finding.rows),
    }
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _fit_as_json(fit: Fit) -> dict[str, Any]:
    ends = {
        end: {name: _finite(bounds[place]) for name, bounds in fit.intervals.items()}
        for place, end in enumerate(("low", "high"))
    }
    return {**{name: _finite(value) for name, value in fit.values.items()}, "n": fit.n, "p": _finite(fit.p), **ends}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
