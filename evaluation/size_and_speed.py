"""What the leaderboard says of exported models: their parameters, operations and latency, and score against each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from assets.manifest import MANIFEST, read_manifest
from assets.progress import setup_logging
from evaluation.figures import Point, pareto_panel
from evaluation.results import Group, Row, read_json

_FEWEST = 2
"""Exports that are worth comparing."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What is known of the export of one run.

    Attributes:
        row: The run.
        report: Of its export, see ``docs/evaluation.md``.
    """

    row: Row
    report: Mapping[str, Any]

    @property
    def has_text(self) -> bool:
        """Whether both sides were exported, so that the cost of a pair is known."""
        return self.report["flops"]["text"] is not None

    @property
    def flops(self) -> float:
        """Operations per pair."""
        return float(self.report["flops"]["image"] + self.report["flops"]["text"])

    @property
    def batches(self) -> list[str]:
        """The batch sizes with a latency, ascending."""
        return sorted(self.report["latency"]["onnxruntime"]["image"], key=int)

    def milliseconds(self, batch: str) -> float:
        """Median latency of both sides in onnxruntime, for a batch of pairs."""
        sides = self.report["latency"]["onnxruntime"]
        return float(sides["image"][batch]["median_ms"] + sides["text"][batch]["median_ms"])

    @property
    def machine(self) -> tuple[str, int]:
        """Where the latency was measured: processor and threads."""
        return self.report["machine"]["cpu"], self.report["machine"]["threads"]


def read_exports(folder: Path | None, rows: Sequence[Row]) -> dict[str, Exported]:
    """Read the exports of the present models of some runs.

    Args:
        folder: Parent of the export folders; None or a missing one holds none.
        rows: The runs.

    Returns:
        Run name -> its export, in the order of the rows. An export of another version of a run's model is left out
        with a warning, and so is a second one of the same run.

    Raises:
        DataError: An export lacks its report, or a folder is something else.
    """
    log = setup_logging()
    reports: dict[str, Mapping[str, Any]] = {}
    versions = {row.run: row.versions["model"] for row in rows}
    for path in sorted(folder.iterdir()) if folder is not None and folder.is_dir() else ():
        if not (path / MANIFEST).is_file():
            continue
        manifest = read_manifest(path, "export")
        run: str = manifest["config"]["run"]
        if run not in versions:
            continue
        if manifest["inputs"]["model"] != versions[run]:
            log.warning('%s is of another model than run %s has now; run "dvc repro export@%s"', path, run, path.name)
        elif run in reports:
            log.warning("%s is another export of run %s, and is not shown", path, run)
        else:
            reports[run] = read_json(path / "report.json", f'run "dvc repro export@{path.name}"')
    return {row.run: Exported(row, reports[row.run]) for row in rows if row.run in reports}


def size_and_speed(
    name: str, title: str, groups: Sequence[Group], exports: Mapping[str, Exported], series: Mapping[str, int],
    metric: str,
) -> dict[str, Any] | None:  # fmt: skip
    """Return what the page shows, or None where fewer than two runs were exported.

    Args:
        name: Unique in the page.
        title: The metric in words.
        groups: The groups of one data set.
        exports: Run name -> its export.
        series: Group label -> number of its colour.
        metric: Dotted name.
    """
    found = [exports[row.run] for group in groups for row in group.rows if row.run in exports]
    if len(found) < _FEWEST:
        return None
    batches = [batch for batch in found[0].batches if all(batch in export.batches for export in found)]
    pairs = {export.row.run: export for export in found if export.has_text}
    machines = sorted({export.machine for export in found})
    drawn: list[tuple[str, list[Point]]] = [
        ("parameters", _points(groups, metric, lambda row: row.cost["inference_params"])),
        ("FLOPs per pair", _points(_only(groups, pairs), metric, lambda row: pairs[row.run].flops)),
    ]
    for batch in batches if len(machines) == 1 else ():
        points = _points(_only(groups, pairs), metric, lambda row, batch=batch: pairs[row.run].milliseconds(batch))
        drawn.append((f"latency at batch {batch}, ms", points))
    return {
        "exports": found,
        "batches": batches,
        "machines": machines,
        "figures": [
            Markup(pareto_panel(f"{name}-s{i}", title, points, series, axis))
            for i, (axis, points) in enumerate(drawn)
            if len(points) > 1
        ],
    }


def _only(groups: Sequence[Group], exports: Mapping[str, Exported]) -> list[Group]:
    """Return the groups with their exported runs only, without those that have none."""
    kept = [(group.label, tuple(row for row in group.rows if row.run in exports)) for group in groups]
    return [Group(label, rows) for label, rows in kept if rows]


def _points(groups: Sequence[Group], metric: str, cost: Callable[[Row], float]) -> list[Point]:
    """Return score and mean cost of each group; those that lack the score are left out."""
    return [
        Point(group.label, sum(map(cost, group.rows)) / len(group.rows), estimate)
        for group in groups
        if (estimate := group.estimate(metric)) is not None
    ]
