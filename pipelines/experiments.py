"""Experiments from Dagster's launchpad: ``dvc exp run`` with other values, beside the workspace and not in it.

``--temp`` lets DVC run the stages in a copy of the tracked files under ``.dvc/tmp/exps``, with the project's cache. So
params.yaml, dvc.lock and the outputs stay as they are, other runs go on, and what the values do not concern is not run
again. The result is a commit under ``refs/exps``, which ``dvc exp show`` lists and ``dvc exp apply`` takes over.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dagster import Config, Failure, JobDefinition, MetadataValue, OpExecutionContext, job, op
from pydantic import Field
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from assets.errors import ConfigError, message
from assets.section import read_yaml, unknown
from pipelines.busy import EXPERIMENT
from pipelines.dvc_command import DvcCommand, Outcome, stage_environment, stage_failure
from pipelines.dvc_project import PARAMS, Project
from pipelines.run_tags import run_tags

STEP = "run_experiment"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_RECORDS = Path(".dvc/tmp/exps")
_MAIN_SCORES = "reports/scores.json"
_MOST_ROWS = 40


class Experiment(Config):
    """What can be chosen in the launchpad."""

    set: dict[str, str] = Field(
        default_factory=dict[str, str],
        description='Key of params.yaml -> value, e.g. "recipes.clip.optim.lr": "3e-3".',
    )
    targets: list[str] = Field(
        default_factory=list[str], description="Stages to bring up to date, e.g. pretrain@clip-s0; all when empty."
    )
    name: str | None = Field(default=None, description="Name of the experiment; made from the run's id when empty.")


def experiment_job(project: Project, command: DvcCommand) -> JobDefinition:
    """Make the job that runs one experiment.

    Args:
        project: The stages that may be targets.
        command: How DVC is run, and how long a cancelled stage may take to end.

    Returns:
        A job of one op, whose output carries name, values, scores against HEAD, and how to take it over.
    """
    runner = _ExperimentCommand(command.root, command.patience)

    @op(name=STEP, description="Runs stages with other values of params.yaml, leaving the workspace as it is.")
    def run_experiment(context: OpExecutionContext, config: Experiment) -> str:
        name = config.name or f"dagster-{context.run.run_id[:8]}"
        try:
            arguments = experiment_arguments(project, config, name)
        except ConfigError as error:
            raise Failure(str(error), allow_retries=False) from error
        if context.instance.has_run(context.run.run_id):
            context.instance.add_run_tags(context.run.run_id, {**run_tags(project.root), "dvc/experiment": name})
        outcome = runner.experiment(context, arguments, name)
        differences = runner.differences(context, name)
        context.add_output_metadata(
            {
                "experiment": MetadataValue.text(name),
                "set": MetadataValue.json(dict(config.set)),
                "scores": MetadataValue.md(scores_table(differences, name)),
                "stages run": MetadataValue.text(", ".join(outcome.ran) or "none: all results were known"),
                "take over": MetadataValue.md(f"`dvc exp apply {name}`"),
                "seconds": MetadataValue.float(round(outcome.seconds, 3)),
            }
        )
        return name

    @job(
        name=EXPERIMENT,
        description="Tries other values of params.yaml: see the op's config. The workspace stays as it is.",
    )
    def experiment() -> None:
        run_experiment()

    return experiment


def experiment_arguments(project: Project, config: Experiment, name: str) -> list[str]:
    """Check what was chosen, before any work, and write it as arguments of ``dvc``.

    Args:
        project: Its stages; params.yaml is read anew.
        config: What was chosen.
        name: Name of the experiment.

    Returns:
        The arguments, from ``exp run`` on.

    Raises:
        ConfigError: A key, value, stage or name that does not exist or is taken, or a project without a commit.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(message("name of the experiment", name, "letters, digits, - and _"))
    if not _git(project.root, "rev-parse", "--verify", "--quiet", "HEAD"):
        raise ConfigError(message("the project has no git commit yet", fix='run "git add -A && git commit" first'))
    taken = _git(project.root, "for-each-ref", "--format=%(refname:lstrip=4)", "refs/exps").split()
    if name in taken:
        raise ConfigError(
            message(f"there is an experiment {name} already", fix=f'choose another, or run "dvc exp remove {name}"')
        )
    known = [*project.stages, *dict.fromkeys(stage.group for stage in project.stages.values())]
    for target in config.targets:
        if target not in known:
            raise ConfigError(unknown(target, known, "stage"))
    params = read_yaml(project.root / PARAMS)
    values = [f"--set-param={_assignment(params, key, text)}" for key, text in config.set.items()]
    return ["exp", "run", "--temp", "--name", name, *values, *config.targets]


def scores_table(differences: Mapping[str, Mapping[str, Mapping[str, Any]]], name: str) -> str:
    """Write metrics that differ as a markdown table, the ones of all runs first.

    Args:
        differences: File -> metric -> ``old``, ``new`` and, for numbers, ``diff``: the form of
            ``dvc metrics diff --json``.
        name: Name of the experiment, the head of its column.

    Returns:
        The table, at most 40 rows and a line that counts the others; one sentence when nothing differs.
    """
    files = sorted(differences, key=lambda file: (file != _MAIN_SCORES, file))
    rows = [(file, metric, change) for file in files for metric, change in sorted(differences[file].items())]
    if not rows:
        return "No metric differs from HEAD."
    lines = [f"| metric | HEAD | {name} | change |", "| --- | ---: | ---: | ---: |"]
    for file, metric, change in rows[:_MOST_ROWS]:
        cells = [_number(change.get(side)) for side in ("old", "new")]
        shift = change.get("diff")
        step = f"{shift:+.4g}" if isinstance(shift, int | float) else ""
        lines.append(f"| {metric} ({file}) | {cells[0]} | {cells[1]} | {step} |")
    if len(rows) > _MOST_ROWS:
        lines.append(f"\n{len(rows) - _MOST_ROWS} more: `dvc metrics diff HEAD {name}`")
    return "\n".join(lines)


class _ExperimentCommand(DvcCommand):
    """Runs ``dvc exp`` with the same hand-on of progress and the same way of stopping as a stage."""

    __slots__ = ()

    def experiment(self, context: OpExecutionContext, arguments: list[str], name: str) -> Outcome:
        """Run an experiment to its end; whatever ends it, its temporary folder is gone afterwards."""
        try:
            with self.pipes(context, STEP) as (env, _):
                outcome = self.run(context, arguments, env)
        finally:
            # DVC removes it, unless it was killed because a stage did not stop in time
            for folder in _temporary_folders(self.root, name):
                shutil.rmtree(folder, ignore_errors=True)
        if outcome.code:
            raise stage_failure(f"experiment {name}", outcome)
        return outcome

    def differences(self, context: OpExecutionContext, name: str) -> dict[str, Any]:
        """Return what ``dvc metrics diff`` says of HEAD and the experiment; nothing where it cannot tell."""
        outcome = self.run(context, ["metrics", "diff", "--json", "HEAD", name])
        found = next((line for line in reversed(outcome.tail) if line.startswith("{")), "")
        if outcome.code or not found:
            context.log.warning(f'the scores could not be compared; try "dvc metrics diff HEAD {name}"')
            return {}
        return json.loads(found)


def _temporary_folders(root: Path, name: str) -> Iterator[Path]:
    """Yield the folders that DVC's own records name for an experiment, none outside the place for such folders."""
    home = (root / _RECORDS / "standalone").resolve()
    for record in (root / _RECORDS / "run").glob("*/*.run"):
        try:
            facts = json.loads(record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        folder = Path(facts.get("root_dir") or "/").resolve()
        if facts.get("name") == name and folder.parent == home and folder.is_dir():
            yield folder


def _assignment(params: Mapping[str, Any], key: str, text: str) -> str:
    """Return ``KEY=VALUE`` in the grammar of DVC's overrides, or say why there is no such key."""
    here: Any = params
    parts = key.split(".")
    for place, part in enumerate(parts):
        where = ".".join((PARAMS, *parts[:place]))
        if not isinstance(here, dict):
            raise ConfigError(message(f"{where} holds a value, so it has no key {part!r}", fix="shorten the key"))
        if part not in here:
            raise ConfigError(f"{where}: {unknown(part, [str(name) for name in here])}")
        here = here[part]
    if isinstance(here, dict):
        keys = ", ".join(f"{key}.{name}" for name in here)
        raise ConfigError(message(f"{PARAMS}: {key} is a section", fix=f"set one of its keys: {keys}"))
    try:
        value: Any = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise ConfigError(message(f"value of {key}", text, "a YAML value")) from error
    if isinstance(here, bool | int | float) and isinstance(value, str):
        raise ConfigError(message(f"value of {key}", text, f"one like {here}, which {PARAMS} has"))
    if isinstance(value, str):
        # unquoted, a comma would mean several experiments and a bracket a list
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"{key}='{escaped}'"
    return f"{key}={json.dumps(value)}"


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=root, env=stage_environment(), capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else ""
