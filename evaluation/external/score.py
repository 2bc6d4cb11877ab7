"""Scores a model on the sets from elsewhere that params.yaml lists, and joins them with those on its own data set."""

import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from assets.errors import ConfigError, DataError, message
from assets.progress import Stage
from assets.section import Section
from evaluation.base import Result, evaluator_class, evaluator_config
from evaluation.config import EvaluationConfig
from evaluation.encoder import Encoder
from evaluation.external.config import PROVIDED, ExternalConfig
from evaluation.external.extract import extract_set
from evaluation.external.layout import ExternalSet, read_set, set_version
from evaluation.features import Batches
from evaluation.intervals import Bootstrap
from evaluation.zero_shot import ZeroShotConfig

_NOT_SCORED = frozenset({"another role"})


@dataclass(frozen=True, slots=True)
class Planned:
    """A set that was read and checked, and what to do with it."""

    external: ExternalSet
    config: ExternalConfig


def plan_sets(config: EvaluationConfig, root: Path) -> dict[str, Planned]:
    """Read and check every set before any work.

    Args:
        config: The section ``evaluation``.
        root: Folder of the sets.

    Returns:
        Name -> set.

    Raises:
        ConfigError: An evaluator cannot score a set of this kind.
        DataError: A set is missing or damaged.
    """
    planned: dict[str, Planned] = {}
    for name, wanted in config.external.items():
        external = read_set(root / name, name, wanted.split)
        for key in wanted.evaluators:
            roles = evaluator_class(key).needs
            if not roles.get(external.role, _NOT_SCORED) <= PROVIDED:
                what = f"evaluation.external.{name}.evaluators: {key} does not score sets of this kind"
                raise ConfigError(message(what, external.role, " or ".join(sorted(roles)), f"leave {key} out"))
        planned[name] = Planned(external, wanted)
    return planned


def set_inputs(planned: Mapping[str, Planned]) -> dict[str, str]:
    """Return the versions of the sets as a manifest lists its inputs, ``external.NAME`` -> version."""
    return {f"external.{name}": set_version(one.external.folder, one.external.split) for name, one in planned.items()}


def score_sets(
    planned: Mapping[str, Planned], config: EvaluationConfig, encoder: Encoder, batches: Batches, stage: Stage
) -> dict[str, dict[str, Result]]:
    """Encode every set once and run its evaluators.

    Args:
        planned: The sets.
        config: The section ``evaluation``.
        encoder: The model.
        batches: How pictures are read.
        stage: For progress.

    Returns:
        Name of the set -> evaluator -> what it found, under the suite of that name.
    """
    bootstrap = Bootstrap(config.bootstrap.resamples, config.bootstrap.seed)
    found: dict[str, dict[str, Result]] = {}
    for name, one in planned.items():
        classes = {key: evaluator_class(key) for key in one.config.evaluators}
        needs = frozenset[str]().union(*(cls.needs[one.external.role] for cls in classes.values()))
        features, notes = extract_set(one.external, one.config, needs, encoder, batches, stage)
        for note in (*one.external.notes, *notes):
            stage.log.warning("%s", note)
        found[name] = {
            key: cls(for_set(evaluator_config(key, config.evaluators[key]), one.external), bootstrap).run(features)
            for key, cls in classes.items()
        }
    return found


def for_set(config: Section, external: ExternalSet) -> Section:
    """Return the config of an evaluator for one set: prompts that come with the set go before ours.

    Args:
        config: The evaluator's section.
        external: The set.
    """
    if isinstance(config, ZeroShotConfig) and external.templates:
        return config.model_copy(update={"templates": tuple(_our_template(one) for one in external.templates)})
    return config


def _our_template(template: str) -> str:
    """Write a prompt of clip-benchmark, ``{c}``, as one of ours, ``{name}``."""
    parts: list[str] = []
    for text, field, form, conversion in string.Formatter().parse(template):
        parts.append(text.replace("{", "{{").replace("}", "}}"))
        if field is not None:
            parts.append("{name" + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "") + "}")
    return "".join(parts)


def join_results(results: dict[str, Result], found: Mapping[str, Mapping[str, Result]]) -> None:
    """Add scores of sets to those on the model's own data set.

    Metrics join as one more suite. Tables and documents get names of their own, ``external_NAME_STEM``: those of the
    own data set are joined with its pictures and classes by key and number, which mean something else here.

    Args:
        results: Evaluator -> what it found on the own data set; extended.
        found: Name of the set -> evaluator -> what it found there.

    Raises:
        DataError: The own data set has a suite that is called like a set.
    """
    for name, by_evaluator in found.items():
        for key, result in by_evaluator.items():
            own = results[key]
            if name in own.metrics:
                what = f"evaluation.external: {name} is also the name of a suite of the data set"
                raise DataError(message(what, fix="give the set another name"))
            own.metrics.update(result.metrics)
            own.intervals.update(result.intervals)
            own.tables.update({f"external_{name}_{stem}": rows for stem, rows in result.tables.items()})
            own.documents.update({f"external_{name}_{stem}": value for stem, value in result.documents.items()})
            own.notes.extend(f"{name}: {note}" for note in result.notes)
