"""The results of all runs, read and checked, as rows of the leaderboard and as groups of seeds."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from assets.errors import ConfigError, DataError, message
from assets.manifest import read_manifest, version_of
from assets.section import unknown
from evaluation.intervals import seed_interval
from evaluation.nested import flatten
from training.config import RunConfig

COSTS = ("samples_seen", "flops", "trainable_params", "inference_params")


@dataclass(frozen=True, slots=True)
class Row:
    """One run of the leaderboard.

    Attributes:
        run: Its key in ``runs``.
        config: Recipe, data set, policy, features, seed.
        metrics: Dotted name -> value.
        intervals: Dotted name -> low and high end of the 95 % bootstrap interval.
        cost: What it took; at least the names in ``COSTS``, and ``pairs``, those trained on, unless the log is older.
        versions: ``data`` and ``model`` versions, and ``evaluation``, digests of settings and code.
        place: Its place among the runs of params.yaml.
    """

    run: str
    config: RunConfig
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    cost: dict[str, float]
    versions: dict[str, str]
    place: int = 0

    @property
    def label(self) -> str:
        """The name of what the seeds of a run share: recipe, policy and features, as far as there are any."""
        parts = (self.config.recipe, self.config.policy, self.config.features)
        return " + ".join(part for number, part in enumerate(parts) if not number or part != "none")

    def as_json(self) -> dict[str, Any]:
        """Return the row as ``docs/leaderboard.schema.json`` describes it."""
        return {
            "run": self.run,
            **{name: getattr(self.config, name) for name in ("recipe", "dataset", "policy", "features", "seed")},
            "metrics": self.metrics,
            "intervals": {name: list(interval) for name, interval in self.intervals.items()},
            "cost": self.cost,
            "versions": self.versions,
        }


@dataclass(frozen=True, slots=True)
class Estimate:
    """A score with its 95 % interval.

    Attributes:
        value: The score, or the mean over seeds.
        low: Low end, or None when the metric has no interval.
        high: High end, or None.
        over: What the interval was taken over.
        scores: The score of every seed.
    """

    value: float
    low: float | None
    high: float | None
    over: Literal["seeds and test set", "test set"]
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """The runs that differ in their seed only.

    Attributes:
        label: Recipe, with policy and features where they are not ``none``.
        rows: The runs, best first.
    """

    label: str
    rows: tuple[Row, ...]

    def estimate(self, metric: str) -> Estimate | None:
        """Summarise a metric over the seeds; None unless every run has it.

        Args:
            metric: Dotted name.
        """
        if any(metric not in row.metrics for row in self.rows):
            return None
        scores = tuple(row.metrics[metric] for row in self.rows)
        bounds = [row.intervals[metric] for row in self.rows if metric in row.intervals]
        below = sum(score - low for score, (low, _) in zip(scores, bounds, strict=False)) / max(len(bounds), 1)
        above = sum(high - score for score, (_, high) in zip(scores, bounds, strict=False)) / max(len(bounds), 1)
        if len(scores) > 1:
            mean, low, high = seed_interval(scores)
            # training and test set are independent sources of luck, and all seeds share one test set
            low, high = mean - math.hypot(mean - low, below), mean + math.hypot(high - mean, above)
            return Estimate(mean, max(low, 0.0), min(high, 1.0), "seeds and test set", scores)  # scores are shares
        low, high = bounds[0] if bounds else (None, None)
        return Estimate(sum(scores), low, high, "test set", scores)

    def cost(self, name: str) -> float:
        """Return the mean cost over the seeds."""
        return sum(row.cost[name] for row in self.rows) / len(self.rows)


@dataclass(frozen=True, slots=True)
class Folders:
    """Parents of the folders of single runs and data sets.

    Attributes:
        reports: Holds ``R/`` of ``evaluate``.
        runs: Holds ``R/`` of ``pretrain``'s curves and cost.
        models: Holds ``R/`` of ``pretrain``'s exports.
        raw: Holds ``D/`` of ``ingest``.
        valid: Holds ``D/`` of ``validate``, or None to leave the data summary out.
        params: The params.yaml, which names the store of shards that are URLs.
        exports: Holds the folders of ``export``, or None to say nothing of size and speed.
        logs: Holds ``R/`` with what only the machine that trained can say, or None to say nothing of it.
    """

    reports: Path
    runs: Path
    models: Path
    raw: Path
    valid: Path | None
    params: Path
    exports: Path | None = None
    logs: Path | None = None


def read_rows(runs: Mapping[str, RunConfig], folders: Folders, main_metric: str) -> list[Row]:
    """Read the results of every run of params.yaml.

    Args:
        runs: Run name -> config.
        folders: Where results are.
        main_metric: Dotted name that sorts.

    Returns:
        The rows, best first.

    Raises:
        DataError: Some runs lack results, or some results do not belong together.
        ConfigError: The main metric is not among the metrics of some run.
    """
    faults: list[str] = []
    rows: list[Row] = []
    for place, (name, config) in enumerate(runs.items()):
        try:
            rows.append(_read_row(name, config, folders, place))
        except DataError as error:
            faults.append(f"run {name}: {error}")
    if faults:
        raise DataError(f"{len(faults)} of {len(runs)} runs cannot be compared:\n" + "\n".join(faults))
    _check_alike(rows)
    for row in rows:
        if main_metric not in row.metrics:
            text = unknown(main_metric, [name for name in row.metrics if is_score(name)], "metric")
            raise ConfigError(f"report.main_metric: run {row.run}: {text}")
    return sorted(rows, key=lambda row: (-row.metrics[main_metric], row.run))


def _read_row(name: str, config: RunConfig, folders: Folders, place: int) -> Row:
    """Read one run and check that its report is of its present model."""
    report, log = folders.reports / name, folders.runs / name
    manifest = read_manifest(report, "report")
    model = version_of(folders.models / name)
    if manifest["inputs"]["model"] != model:
        raise DataError(message(f"{report} scores another model", manifest["inputs"]["model"], model, "evaluate anew"))
    summary = read_json(log / "summary.json", 'run "dvc repro pretrain" first')
    if summary["model_version"] != model:
        raise DataError(
            message(f"{log}/summary.json is of another model", summary["model_version"], model, "train anew")
        )
    if lacking := [cost for cost in COSTS if cost not in summary["cost"]]:
        raise DataError(message(f"{log}/summary.json lacks the costs {', '.join(lacking)}", fix="train anew"))
    return Row(
        run=name,
        config=config,
        metrics=flatten(read_json(report / "metrics.json")),
        intervals={key: (low, high) for key, (low, high) in flatten(read_json(report / "intervals.json")).items()},
        # seconds, which logs of before this version hold, tell the machine and not the run
        cost={name: value for name, value in summary["cost"].items() if name in (*COSTS, "pairs")},
        versions={
            "data": manifest["inputs"]["valid"],
            "model": model,
            "evaluation": f"{manifest['config_digest']}-{manifest['code']}",
        },
        place=place,
    )


def read_json(path: Path, fix: str = "evaluate anew") -> dict[str, Any]:
    """Read a file of a report or a run.

    Args:
        path: The file.
        fix: What to do when it is missing.

    Raises:
        DataError: It is missing.
    """
    if not path.is_file():
        raise DataError(message(f"{path} does not exist", fix=fix))
    return json.loads(path.read_text(encoding="utf-8"))


def _check_alike(rows: Iterable[Row]) -> None:
    """Refuse rows scored in different ways, or on different versions of one data set."""
    first: dict[tuple[str, str], Row] = {}
    for row in rows:
        for fact in ("evaluation", "data"):
            other = first.setdefault((row.config.dataset, fact), row)
            if other.versions[fact] != row.versions[fact]:
                what = f"runs {other.run} and {row.run} were scored with different versions of {fact}"
                got = f"{other.versions[fact]} and {row.versions[fact]}"
                raise DataError(message(what, got, "the same", 'run "dvc repro" for all runs'))


def is_score(metric: str) -> bool:
    """Whether a dotted name is a score, and not a count or a chance level."""
    return not metric.rpartition(".")[2].startswith(("num_", "chance_"))


def chance_of(metric: str, metrics: Mapping[str, float]) -> float | None:
    """Return the chance level that belongs to a metric (see ``evaluation.base.Result``), or None.

    Args:
        metric: Dotted name, e.g. ``retrieval.in_domain.image_to_text_r1``.
        metrics: All metrics of a run.
    """
    suite, _, name = metric.rpartition(".")
    words = name.split("_")
    for start in range(len(words)):
        if (chance := metrics.get(f"{suite}.chance_{'_'.join(words[start:])}")) is not None:
            return chance
    return None


def group_rows(rows: Iterable[Row]) -> list[Group]:
    """Group the rows of one data set that differ in their seed only, in the order of each group's best row."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.label, []).append(row)
    return [Group(label, tuple(members)) for label, members in groups.items()]
