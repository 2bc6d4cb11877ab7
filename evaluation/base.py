"""The contract of an evaluator: what it needs, and what its run returns.

An evaluator is one file with a ``Config`` (a ``Section``) and a class listed in ``evaluation.EVALUATORS``. The engine
(``evaluation/evaluate.py``) extracts the features that all evaluators need in one pass, hands the same object to each,
and writes what they return; the report reads metric names, so a new evaluator changes neither.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from assets.errors import ConfigError
from assets.section import Section, parse, unknown
from evaluation import EVALUATORS

if TYPE_CHECKING:
    from evaluation.features import Features
    from evaluation.intervals import Bootstrap

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Result:
    """What an evaluator found.

    Attributes:
        metrics: Suite -> metric -> value. Scores lie in 0..1, higher is better. ``num_*`` are counts or other numbers
            that are no scores; ``chance_X`` is what a model without skill gets for every metric of the suite that is
            called X or ends in ``_X``.
        intervals: Suite -> metric -> (low, high), for the metrics that have a 95 % interval.
        tables: File stem -> rows, written as ``<stem>.parquet``; every row has the same keys.
        documents: File stem -> JSON value, written as ``<stem>.json``.
        notes: What was left out and why, for the log.
    """

    metrics: dict[str, dict[str, float | int]]
    intervals: dict[str, dict[str, Interval]]
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict[str, list[dict[str, Any]]])
    documents: dict[str, Any] = field(default_factory=dict[str, Any])
    notes: list[str] = field(default_factory=list[str])


class Evaluator(Protocol):
    """One benchmark on frozen features.

    Attributes:
        Config: The evaluator's own section, below ``evaluation.evaluators`` in params.yaml.
        needs: Split role -> what to extract for each of its samples: ``"images"``, ``"captions"``, ``"pooled"``
            (image features before the projection), ``"further_captions"`` (texts of KEY.json, not encoded),
            ``"metadata"`` (all of KEY.json), ``"caption_sets"`` (several captions per picture), ``"patches"`` and
            ``"pictures"`` (readers, for what is too much to keep).
    """

    Config: ClassVar[type[Section]]
    needs: ClassVar[Mapping[str, frozenset[str]]]

    def __init__(self, config: Any, bootstrap: "Bootstrap") -> None:
        """Keep the parsed ``Config`` and the source of intervals."""
        ...

    def run(self, features: "Features") -> Result:
        """Score one model on every suite that has a split of the needed roles."""
        ...


def evaluator_class(name: str) -> type[Evaluator]:
    """Return the class behind a name of ``evaluation.EVALUATORS``.

    Args:
        name: The evaluator's name.

    Raises:
        ConfigError: There is no such evaluator.
    """
    if name not in EVALUATORS:
        raise ConfigError(f"evaluators: {unknown(name, list(EVALUATORS), 'evaluator')}")
    module, _, attribute = EVALUATORS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def evaluator_config(name: str, values: Any) -> Section:
    """Parse one evaluator's section.

    Args:
        name: The evaluator's name.
        values: Plain data below ``evaluation.evaluators.<name>``.

    Returns:
        The evaluator's frozen ``Config``.
    """
    return parse(evaluator_class(name).Config, values, f"evaluators.{name}")


def entry_modules() -> tuple[str, ...]:
    """Return the modules whose code decides a report: the stage and every evaluator of the table."""
    return ("evaluation.evaluate", *(place.partition(":")[0] for place in EVALUATORS.values()))
