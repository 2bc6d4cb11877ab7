"""What the report of concepts takes from params.yaml. This module stays light.

The report has no section of its own: it sets the concepts of ``concepts.NAME`` against every run of that data set.
"""

from dataclasses import dataclass
from pathlib import Path

from assets.config import entry, read_sections
from assets.errors import ConfigError, message
from assets.section import parse
from evaluation.config import EvaluationConfig
from evaluation.intervals import Bootstrap
from training.config import BudgetConfig, RunConfig

REPORTS = Path("reports/concepts")
KIND = "concept_report"
TARGETS = (0.25, 0.5, 0.75, 0.9)
"""Accuracies for which the report says how much data they take."""


@dataclass(frozen=True, slots=True)
class RunGroup:
    """The runs that differ in their seed only.

    Attributes:
        label: Recipe, with policy and features where they are not ``none``, as on the leaderboard.
        policy: The policy they share, or ``none``.
        samples_seen: Pairs shown in all to each run, repeats counted.
        runs: Their names.
    """

    label: str
    policy: str
    samples_seen: int
    runs: tuple[str, ...]


def load_groups(params: Path, dataset: str) -> tuple[RunGroup, ...]:
    """Read the runs of a data set.

    Args:
        params: The file params.yaml.
        dataset: The data set.

    Returns:
        The groups, sorted by label.

    Raises:
        ConfigError: No run is of the data set, or a value is wrong.
    """
    sections = read_sections(params)
    members: dict[str, list[tuple[str, RunConfig]]] = {}
    for name, values in sections["runs"].items():
        run = parse(RunConfig, values, f"{params}: runs.{name}")
        if run.dataset == dataset:
            members.setdefault(_label(run), []).append((str(name), run))
    if not members:
        what = f"{params}: runs: none is of the data set {dataset}, so there is no accuracy to set against frequency"
        raise ConfigError(message(what, fix="add a run, or name another data set in the entry of concepts"))
    return tuple(_group(label, runs, params) for label, runs in sorted(members.items()))


def load_bootstrap(params: Path) -> Bootstrap:
    """Read how intervals are drawn: ``evaluation.bootstrap``, as for all scores.

    Args:
        params: The file params.yaml.
    """
    config = parse(EvaluationConfig, read_sections(params)["evaluation"], f"{params}: evaluation")
    return Bootstrap(config.bootstrap.resamples, config.bootstrap.seed)


def _label(run: RunConfig) -> str:
    parts = (run.recipe, run.policy, run.features)
    return " + ".join(part for number, part in enumerate(parts) if not number or part != "none")


def _group(label: str, runs: list[tuple[str, RunConfig]], params: Path) -> RunGroup:
    first = runs[0][1]
    recipe = entry(read_sections(params), "recipes", first.recipe, params)
    budget = parse(BudgetConfig, recipe.get("budget"), f"{params}: recipes.{first.recipe}.budget")
    return RunGroup(label, first.policy, budget.samples_seen, tuple(name for name, _ in runs))
