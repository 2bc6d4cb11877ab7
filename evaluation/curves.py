"""Training curves of runs: over steps, as they were logged, and over the compute that had been spent by then."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from assets.errors import DataError, message
from evaluation.results import Folders, Group, Row, read_json

Curve = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class ComputeCurves:
    """One curve of the runs of a group, as points (training FLOPs spent, value).

    Attributes:
        runs: One curve per run.
        mean: Mean over the runs at the steps that all of them have.
    """

    runs: tuple[Curve, ...]
    mean: Curve


def step_curves(group: Group, name: str, folders: Folders) -> list[Curve]:
    """Read a curve of the runs of a group that have it, as points (step, value).

    Args:
        group: The runs.
        name: Path below ``runs/R/plots/metrics`` without ``.tsv``.
        folders: Where the runs are.
    """
    return [read_curve(_path(row, name, folders)) for row in _with_curve(group, name, folders)]


def compute_curves(group: Group, name: str, folders: Folders) -> ComputeCurves | None:
    """Read a curve of the runs of a group over training FLOPs; None when no run has it.

    A run's whole compute is spread evenly over its steps, so also what it spent between episodes.

    Args:
        group: The runs.
        name: Path below ``runs/R/plots/metrics`` without ``.tsv``.
        folders: Where the runs are.

    Raises:
        DataError: A run does not say at which step it ended, or the runs have no step in common.
    """
    rows = _with_curve(group, name, folders)
    if not rows:
        return None
    values = [dict(read_curve(_path(row, name, folders))) for row in rows]
    shared = sorted(set(values[0]).intersection(*values[1:]))
    if not shared:
        runs = ", ".join(row.run for row in rows)
        raise DataError(message(f"curve {name} of runs {runs}: no step in common", fix="train them anew"))
    rates = [row.cost["flops"] / _steps(row, folders) for row in rows]
    rate = sum(rates) / len(rates)
    return ComputeCurves(
        runs=tuple(
            [((step + 1) * rate, value) for step, value in points.items()]
            for rate, points in zip(rates, values, strict=True)
        ),
        mean=[((step + 1) * rate, sum(points[step] for points in values) / len(values)) for step in shared],
    )


def _steps(row: Row, folders: Folders) -> float:
    """Return how many steps a run took; its last row tells the last one."""
    return read_json(folders.runs / row.run / "metrics.json", "train anew")["step"] + 1


def _path(row: Row, name: str, folders: Folders) -> Path:
    return folders.runs / row.run / "plots" / "metrics" / f"{name}.tsv"


def _with_curve(group: Group, name: str, folders: Folders) -> list[Row]:
    return [row for row in group.rows if _path(row, name, folders).is_file()]


def read_curve(path: Path) -> Curve:
    """Read one of dvclive's plot files: a header with ``step`` and the metric's name, then one row per step."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream, delimiter="\t")
        value = next(column for column in rows.fieldnames or () if column not in ("step", "timestamp"))
        return [(float(row["step"]), float(row[value])) for row in rows]
