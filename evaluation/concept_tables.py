"""The page's table of classes: how often training shows each, and how well each recipe knows it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from evaluation.results import Group

PER_CLASS = "per_class.parquet"
_ENDS = 6


@dataclass(frozen=True, slots=True)
class ClassLine:
    """One class.

    Attributes:
        name: Of the class.
        group: The data set's group of classes.
        frequency: ``head``, ``mid`` or ``tail``.
        train_count: How often training shows it.
        num_images: How many images of the suite show it.
        scores: Accuracy per recipe, mean over its seeds.
    """

    name: str
    group: str
    frequency: str
    train_count: int
    num_images: int
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the recipes."""
        return sum(self.scores) / len(self.scores)

    @property
    def spread(self) -> float:
        """The best recipe's accuracy minus the worst one's."""
        return max(self.scores) - min(self.scores)


@dataclass(frozen=True, slots=True)
class ClassTable:
    """All classes of one suite.

    Attributes:
        suite: Its name.
        labels: The recipes, in the order of ``ClassLine.scores``.
        lines: The classes, frequent ones first.
        has_frequency: Whether the data set says how often training shows a class.
    """

    suite: str
    labels: tuple[str, ...]
    lines: tuple[ClassLine, ...]
    has_frequency: bool

    @property
    def best(self) -> list[ClassLine]:
        """The classes that the first recipe knows best; among equals the rarer ones, which are the harder ones."""
        return sorted(self.lines, key=lambda line: (-line.scores[0], line.train_count, line.name))[:_ENDS]

    @property
    def worst(self) -> list[ClassLine]:
        """The classes that the first recipe knows worst; among equals the more frequent ones."""
        return sorted(self.lines, key=lambda line: (line.scores[0], -line.train_count, line.name))[:_ENDS]


def class_tables(groups: Sequence[Group], reports: Path, order: Callable[[str], Any]) -> list[ClassTable]:
    """Read what the recipes get per class.

    Args:
        groups: The groups, best first; those of which a run has no ``per_class.parquet`` are left out.
        reports: Holds ``R/`` of ``evaluate``.
        order: Sort key of suites.

    Returns:
        One table per suite that all of these groups have.
    """
    read: dict[str, list[dict[tuple[str, Any], dict[str, Any]]]] = {}
    for group in groups:
        paths = [reports / row.run / PER_CLASS for row in group.rows]
        if all(path.is_file() for path in paths):
            read[group.label] = [
                {(line["suite"], line["class_id"]): line for line in pq.read_table(path).to_pylist()} for path in paths
            ]
    runs = [run for parts in read.values() for run in parts]
    shared = set(runs[0]).intersection(*runs[1:]) if runs else set[tuple[str, Any]]()
    tables: list[ClassTable] = []
    for suite in sorted({suite for suite, _ in shared}, key=order):
        places = sorted(place for place in shared if place[0] == suite)
        lines = [_line([[run[place] for run in parts] for parts in read.values()]) for place in places]
        lines.sort(key=lambda line: (-line.train_count, line.name))
        tables.append(ClassTable(suite, tuple(read), tuple(lines), any(line.train_count for line in lines)))
    return tables


def _line(found: Sequence[Sequence[dict[str, Any]]]) -> ClassLine:
    """Average one class over seeds, [recipes][seeds]."""
    facts = found[0][0]
    return ClassLine(
        name=facts["name"],
        group=facts["group"],
        frequency=facts["frequency"],
        train_count=facts["train_count"],
        num_images=facts["num_images"],
        scores=tuple(sum(seed["top1"] for seed in seeds) / len(seeds) for seeds in found),
    )
