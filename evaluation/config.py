"""The sections ``evaluation`` and ``report`` of params.yaml."""

from typing import Annotated, Any, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from assets.errors import ConfigError, message
from assets.section import Section
from evaluation.base import evaluator_class, evaluator_config
from evaluation.external.config import PROVIDED, ExternalConfig, ExternalName

MetricName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*(\.[a-z0-9][a-z0-9_]*)+$")]


class BootstrapConfig(Section):
    """The 95 % intervals of every metric (``evaluation/intervals.py``)."""

    resamples: int = Field(ge=100, le=100_000)
    """How many times the units (images, queries, classes) are drawn anew."""
    seed: int = Field(ge=0)
    """Seed of the draws."""


class EvaluationConfig(Section):
    """How an exported model is scored; the section ``evaluation``."""

    batch_size: int = Field(ge=1, le=65_536)
    """Images or captions per forward pass."""
    bootstrap: BootstrapConfig
    evaluators: dict[str, dict[str, Any]] = Field(min_length=1)
    """Evaluator name (a key of ``evaluation.EVALUATORS``) -> its own config; those named here run, in this order."""
    external: dict[ExternalName, ExternalConfig] = Field(default_factory=dict[ExternalName, ExternalConfig])
    """Sets in clip-benchmark's format that models are scored on too: name of the folder in ``data/external`` -> how."""

    @model_validator(mode="after")
    def _check_evaluators(self) -> Self:
        for name, values in self.evaluators.items():
            try:
                evaluator_config(name, values)
            except ConfigError as error:
                raise PydanticCustomError("evaluator", "{text}", {"text": str(error)}) from error
        return self

    @model_validator(mode="after")
    def _check_external(self) -> Self:
        for name, external in self.external.items():
            place = f"external.{name}.evaluators"
            if absent := [key for key in external.evaluators if key not in self.evaluators]:
                wanted = f"one of {', '.join(self.evaluators)}"
                text = message(
                    f"{place}: no such evaluator", absent[0], wanted, "configure it in evaluation.evaluators"
                )
                raise PydanticCustomError("external", "{text}", {"text": text})
            for key in external.evaluators:
                if not any(needed <= PROVIDED for needed in evaluator_class(key).needs.values()):
                    text = f"{place}: {key} needs more than pictures, classes and captions; leave it out"
                    raise PydanticCustomError("external", "{text}", {"text": text})
        return self


class ReportConfig(Section):
    """What the leaderboard shows; the section ``report``."""

    title: str = Field(min_length=1)
    """Heading of the page."""
    main_metric: MetricName
    """The metric that sorts the leaderboard, e.g. ``zero_shot.in_domain.top1``; higher is better."""
    columns: tuple[MetricName, ...] = Field(min_length=1)
    """Metrics with a column in the table and a panel in the plots; all others are in the details."""
    curves: tuple[str, ...]
    """Training curves to plot, as paths below ``runs/R/plots/metrics`` without ``.tsv``, e.g. ``train/loss``."""
    compute_curves: tuple[str, ...] = ()
    """Training curves to plot against the FLOPs spent, named likewise, e.g. ``holdout/image_to_text_r1``."""
    examples: int = Field(ge=0, le=50)
    """Example queries per suite, direction and kind (drawn, failed); never more than the evaluator kept."""
    candidates: int = Field(ge=1, le=20)
    """Retrieved items shown per query; never more than the evaluator kept."""
    thumbnail_pixels: int = Field(ge=16, le=512)
    """Longest side of a picture in the page."""
