"""One entry of the section ``promotions``: which run may replace which champion, and by what rules.

This module stays light: it is imported wherever params.yaml is read.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from assets.config import entry, read_sections
from assets.errors import ConfigError, message
from assets.section import Section, parse
from evaluation.config import MetricName

PROMOTIONS = Path("reports/promotion")
NO_BUCKET = "none"
_NO_SCORES = ("num_", "chance_")

Share = Annotated[float, Field(ge=0, le=1)]


class PromotionConfig(Section):
    """How a champion is replaced; the section ``promotions.NAME``."""

    run: str
    """The challenger: the run that retraining makes anew."""
    dataset: str
    """That run's data set."""
    metric: MetricName
    """What is compared in pairs, unit by unit, e.g. ``zero_shot.in_domain.top1``; higher is better."""
    rule: Literal["better", "not_worse"]
    """``better`` wants the 95 % interval of the paired difference above 0, ``not_worse`` wants it above -margin."""
    margin: Share = 0.0
    """How much worse counts as not worse, as a share; 0 with the rule ``better``."""
    slices: dict[MetricName, Share] = Field(default_factory=dict[MetricName, Share])
    """Metric -> how far it may fall below the champion's, as a share."""
    floors: dict[MetricName, Share] = Field(default_factory=dict[MetricName, Share])
    """Metric -> least value, with or without a champion."""
    bucket: str = Field(default=NO_BUCKET, pattern=r"^[a-z0-9][a-z0-9.-]{2,61}[a-z0-9]$")
    """Bucket of the store that champions are published to, or ``none``."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric that is looked at, the main one first."""
        return tuple(dict.fromkeys((self.metric, *self.slices, *self.floors)))

    @property
    def evaluators(self) -> tuple[str, ...]:
        """The evaluators that measure them."""
        return tuple(dict.fromkeys(metric.partition(".")[0] for metric in self.metrics))

    @field_validator("metric", "slices", "floors")
    @classmethod
    def _check_scores(cls, names: str | dict[str, float]) -> str | dict[str, float]:
        for name in (names,) if isinstance(names, str) else names:
            if name.rpartition(".")[2].startswith(_NO_SCORES):
                raise ValueError(f"{name} is a count or a chance level and no score; name a score")
        return names

    @model_validator(mode="after")
    def _check_margin(self) -> Self:
        wants_margin = self.rule != "better"
        if wants_margin and not self.margin:
            raise ValueError("rule not_worse needs a margin above 0, e.g. margin: 0.01; or take rule better")
        if self.margin and not wants_margin:
            raise ValueError("margin belongs to rule not_worse; leave margin out, or take rule not_worse")
        return self


def load_promotion(params: Path, name: str) -> PromotionConfig:
    """Read ``promotions.<name>`` and check what it refers to.

    Args:
        params: The file params.yaml; sections ``promotions``, ``runs`` and ``evaluation``.
        name: The entry.

    Raises:
        ConfigError: An unknown name, a wrong value, a run of another data set, or an evaluator that is not configured.
    """
    sections = read_sections(params)
    where = f"{params}: promotions.{name}"
    config = parse(PromotionConfig, entry(sections, "promotions", name, params), where)
    run = entry(sections, "runs", config.run, params)
    if name in sections["runs"]:
        raise ConfigError(f"{where}: a run has that name, and both would be models/{name}; rename one")
    if run.get("dataset") != config.dataset:
        what = f"{where}.dataset is not that of run {config.run}"
        raise ConfigError(message(what, config.dataset, run.get("dataset"), f"write dataset: {run.get('dataset')}"))
    configured = sections["evaluation"].get("evaluators", {})
    for metric in config.metrics:
        if (evaluator := metric.partition(".")[0]) not in configured:
            what = f"{where}: {metric} is measured by no configured evaluator"
            wanted = f"one of {', '.join(configured)}"
            raise ConfigError(message(what, evaluator, wanted, "add it to evaluation.evaluators, or name another one"))
    return config
