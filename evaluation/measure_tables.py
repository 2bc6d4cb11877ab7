"""The page's tables of metrics by recipe: languages, corruptions, kinds of foils, spectra and tuned heads."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.results import Group, chance_of
from evaluation.wording import plain

_ABBREVIATIONS = {"sve": "SVE", "lsvr": "LSVR", "lp": "LP", "mlp": "MLP", "nmtune": "NMTune", "jpeg": "JPEG"}


@dataclass(frozen=True, slots=True)
class Cell:
    """What one recipe gets.

    Attributes:
        value: Mean over seeds.
        low: Low end of its 95 % interval, or of the single seeds for a number that is no score; None
            without.
        high: High end likewise.
    """

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Line:
    """One metric, or a language's two.

    Attributes:
        name: In words.
        cells: One per recipe; None where it lacks the metric.
        further: The other direction of a search, likewise; empty without.
        chance: What a model without skill gets, or None.
        is_share: Whether values are shares, to be shown in percent.
    """

    name: str
    cells: tuple[Cell | None, ...]
    further: tuple[Cell | None, ...]
    chance: float | None
    is_share: bool


@dataclass(frozen=True, slots=True)
class MeasureTable:
    """Metrics of one suite by recipe.

    Attributes:
        suite: Its name.
        labels: The recipes that have any, in the order of the cells.
        lines: The metrics.
    """

    suite: str
    labels: tuple[str, ...]
    lines: tuple[Line, ...]


def measure_tables(
    groups: Sequence[Group], evaluator: str, order: Callable[[str], Any], first: Sequence[str] = ()
) -> list[MeasureTable]:
    """Return everything that an evaluator measured, one table per suite.

    Args:
        groups: The groups, best first; those without any of its metrics are left out.
        evaluator: Its name.
        order: Sort key of suites.
        first: Metrics that stand first, in this order; the others follow by name.
    """
    tables: list[MeasureTable] = []
    for suite, names in _measured(groups, evaluator, order):
        shown = [name for name in names if not name.startswith("chance_")]
        shown.sort(key=lambda name: (first.index(name) if name in first else len(first), name.startswith("num_"), name))
        tables.append(_table(groups, f"{evaluator}.{suite}", [(plain_measure(name), (name,)) for name in shown]))
    return tables


def language_tables(groups: Sequence[Group], order: Callable[[str], Any]) -> list[MeasureTable]:
    """Return R@1 per language (or other caption of the pictures) in both directions, one table per suite.

    Args:
        groups: The groups, best first; those without such metrics are left out.
        order: Sort key of suites.
    """
    tables: list[MeasureTable] = []
    for suite, names in _measured(groups, "caption_retrieval", order):
        parts = [found[1] for name in names if (found := re.fullmatch(r"(.+)_image_to_text_r1", name))]
        asked = sorted(part for part in parts if not part.startswith("facet_"))
        measures = [
            (plain(part), tuple(f"{part}_{way}_r1" for way in ("image_to_text", "text_to_image"))) for part in asked
        ]
        if measures:
            tables.append(_table(groups, f"caption_retrieval.{suite}", measures))
    return tables


def plain_measure(name: str) -> str:
    """Write the last part of a metric's name in words; ``num_`` is said by the number itself."""
    text = re.sub(r"(^|_)top(\d+)", r"\1top-\2", name.removeprefix("num_"))
    words = plain(re.sub(r"(^|_)r(\d+)$", r"\1R@\2", text)).split(" ")
    return " ".join(_ABBREVIATIONS.get(word, word) for word in words)


def _measured(groups: Sequence[Group], evaluator: str, order: Callable[[str], Any]) -> list[tuple[str, list[str]]]:
    """Return the suites of an evaluator with the names of what some run has there."""
    found: dict[str, set[str]] = {}
    for metric in {metric for group in groups for row in group.rows for metric in row.metrics}:
        owner, _, rest = metric.partition(".")
        if owner == evaluator:
            suite, _, name = rest.rpartition(".")
            found.setdefault(suite, set()).add(name)
    return [(suite, sorted(found[suite])) for suite in sorted(found, key=order)]


def _table(groups: Sequence[Group], prefix: str, measures: Sequence[tuple[str, tuple[str, ...]]]) -> MeasureTable:
    """Fill the cells; the last part of the prefix is the suite."""
    names = [f"{prefix}.{name}" for _, parts in measures for name in parts]
    known = [group for group in groups if any(name in row.metrics for row in group.rows for name in names)]
    lines: list[Line] = []
    for words, parts in measures:
        columns = [tuple(_cell(group, f"{prefix}.{part}") for group in known) for part in parts]
        metrics = {name: value for group in known for row in group.rows for name, value in row.metrics.items()}
        chance = chance_of(f"{prefix}.{parts[0]}", metrics)
        further = columns[1] if len(columns) > 1 else ()
        lines.append(Line(words, columns[0], further, chance, not parts[0].startswith("num_")))
    return MeasureTable(prefix.partition(".")[2], tuple(group.label for group in known), tuple(lines))


def _cell(group: Group, metric: str) -> Cell | None:
    """Return a recipe's mean; the interval of a number that is no score spans its seeds."""
    if not metric.rpartition(".")[2].startswith("num_"):
        estimate = group.estimate(metric)
        return None if estimate is None else Cell(estimate.value, estimate.low, estimate.high)
    values = [row.metrics[metric] for row in group.rows if metric in row.metrics]
    if not values:
        return None
    ends = (min(values), max(values)) if min(values) < max(values) else (None, None)
    return Cell(sum(values) / len(values), *ends)
