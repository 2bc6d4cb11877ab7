"""Scores of single images and queries of all runs, and the paired comparisons that the page shows of them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from evaluation.paired import Difference, UnitScores, align, compare_pairs, corrected
from evaluation.results import Group

PER_IMAGE, PER_QUERY = "per_image.parquet", "per_query.parquet"
_IMAGE = re.compile(r"zero_shot\.(\w+)\.(top1|top5)")
_QUERY = re.compile(r"retrieval\.(\w+)\.(image_to_text|text_to_image)_(r1|r5|r10)")
_RECALL = re.compile(r"retrieval\.(\w+)\.mean_recall")


@dataclass(frozen=True, slots=True)
class Comparisons:
    """Paired comparisons of the recipes of one data set.

    Attributes:
        metric: Of the matrix.
        labels: The groups of the matrix, best first.
        matrix: Row minus column, None on the diagonal, [groups][groups]; corrected over all pairs.
        baseline: The group that ``table`` compares with.
        columns: The metrics of ``table``.
        table: Label -> group minus baseline per metric, None where one of them lacks it; corrected over all cells.
    """

    metric: str
    labels: list[str]
    matrix: list[list[Difference | None]]
    baseline: str
    columns: list[str]
    table: dict[str, list[Difference | None]]

    @property
    def knows_seeds(self) -> bool:
        """Whether the luck of training is in every difference."""
        cells = [cell for line in (*self.matrix, *self.table.values()) for cell in line]
        return all(cell.knows_seeds for cell in cells if cell is not None)


def unit_scores(group: Group, metric: str, reports: Path) -> UnitScores | None:
    """Read the scores of every unit by every run of a group.

    Args:
        group: The runs.
        metric: Dotted name, e.g. ``zero_shot.in_domain.top1``.
        reports: Holds ``R/`` of ``evaluate``.

    Returns:
        The scores; None where ``evaluate`` keeps none for this metric, or kept none for some run.

    Raises:
        DataError: The runs of the group were scored on different units.
    """
    parts: dict[str, UnitScores] = {}
    for row in group.rows:
        if (found := run_scores(metric, reports / row.run)) is None:
            return None
        parts[f"run {row.run}"] = found
    aligned = align(parts)
    return UnitScores(next(iter(parts.values())).keys, np.concatenate(list(aligned.values())))


def has_units(metric: str) -> bool:
    """Whether ``evaluate`` keeps the scores of single units for a metric, so that models can be compared in pairs."""
    return any(pattern.fullmatch(metric) for pattern in (_IMAGE, _QUERY, _RECALL))


def run_scores(metric: str, report: Path) -> UnitScores | None:
    """Read the scores of every unit by one model.

    Args:
        metric: Dotted name, e.g. ``zero_shot.in_domain.top1``.
        report: The report folder of ``evaluate``.

    Returns:
        The scores, [1, units]; None where ``evaluate`` keeps none for this metric.
    """
    if match := _IMAGE.fullmatch(metric):
        return _read(report / PER_IMAGE, {"suite": match[1]}, (match[2],))
    if match := _QUERY.fullmatch(metric):
        return _read(report / PER_QUERY, {"suite": match[1], "direction": match[2]}, (match[3],))
    if match := _RECALL.fullmatch(metric):
        ks = ("r1", "r5", "r10")
        ways = [
            _read(report / PER_QUERY, {"suite": match[1], "direction": way}, ks)
            for way in ("image_to_text", "text_to_image")
        ]
        known = {str(number): part for number, part in enumerate(ways) if part is not None}
        if len(known) == len(ways):
            both = align(known)
            return UnitScores(known["0"].keys, np.mean(list(both.values()), axis=0))
    return None


def _read(path: Path, where: Mapping[str, str], columns: Sequence[str]) -> UnitScores | None:
    """Read the mean of some columns of the rows with these values; None where there are none."""
    if not path.is_file():
        return None
    filters = [(name, "==", value) for name, value in where.items()]
    table = pq.read_table(path, columns=["key", *columns], filters=filters)
    if not len(table):
        return None
    scores = np.mean([table[name].to_numpy() for name in columns], axis=0)
    return UnitScores(tuple(table["key"].to_pylist()), scores[None])


def comparisons(
    groups: Sequence[Group], main: str, columns: Sequence[str], reports: Path, baseline: str
) -> Comparisons | None:
    """Compare the recipes of one data set in pairs.

    Args:
        groups: The groups, best first.
        main: The metric of the matrix.
        columns: The metrics to compare with the baseline; those without scores of single units are left out.
        reports: Holds ``R/`` of ``evaluate``.
        baseline: Label of the group to compare the others with.

    Returns:
        The differences, or None where fewer than two groups have scores of single units.

    Raises:
        DataError: Recipes were scored on different units.
    """
    scores: dict[str, dict[str, UnitScores]] = {}
    for metric in dict.fromkeys((main, *columns)):
        found = {group.label: part for group in groups if (part := unit_scores(group, metric, reports)) is not None}
        if len(found) > 1:
            scores[metric] = found
    if not scores:
        return None
    labels = [group.label for group in groups if group.label in scores.get(main, {})]
    shown = [metric for metric in columns if baseline in scores.get(metric, {})]
    others = [group.label for group in groups if group.label != baseline]
    return Comparisons(
        metric=main,
        labels=labels,
        matrix=_matrix(labels, scores.get(main, {})),
        baseline=baseline,
        columns=shown,
        table=_table(others, baseline, [scores[metric] for metric in shown]),
    )


def _matrix(labels: Sequence[str], scores: Mapping[str, UnitScores]) -> list[list[Difference | None]]:
    """Compare every pair once, and show it from both sides."""
    pairs = list(combinations(labels, 2))
    cells: dict[tuple[str, str], Difference] = {}
    for (one, other), cell in zip(pairs, compare_pairs(scores, pairs), strict=True):
        cells[one, other] = cell
        cells[other, one] = replace(cell, value=-cell.value, low=-cell.high, high=-cell.low)
    return [[cells.get((row, column)) for column in labels] for row in labels]


def _table(
    labels: Sequence[str], baseline: str, columns: Sequence[Mapping[str, UnitScores]]
) -> dict[str, list[Difference | None]]:
    """Compare every group with the baseline under every metric, corrected over all of them."""
    places: list[tuple[str, int]] = []
    found: list[Difference] = []
    for number, scores in enumerate(columns):
        known = [label for label in labels if label in scores]
        found += compare_pairs(scores, [(label, baseline) for label in known])
        places += [(label, number) for label in known]
    cells = dict(zip(places, corrected(found), strict=True))
    return {
        label: [cells.get((label, number)) for number in range(len(columns))]
        for label in labels
        if any(place[0] == label for place in places)
    }
