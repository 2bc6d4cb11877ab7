"""Robustness: how much of a zero-shot classifier is left on corrupted pictures.

Pictures are corrupted (``corruptions.py``) before the model's own preprocessing, encoded anew, and classified as
``zero_shot.py`` does it. ``top1`` is the score of the same pictures undamaged, so that both are compared on equal
terms; ``num_retained`` is their ratio, which says how robust a model is whatever its level. It is no score: a model
near chance retains everything. Another art style is a shift of its own, the suite ``held_out_style`` of ``zero_shot``;
here that suite is corrupted as well.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from assets.section import Section
from assets.unit import unit
from evaluation.base import Interval, Result
from evaluation.class_scores import Columns, class_labels, summarise
from evaluation.corruptions import SEVERITIES, Corruption, CorruptionName
from evaluation.intervals import Bootstrap
from evaluation.retrieval import draw_order
from evaluation.sides import Array
from evaluation.zero_shot import ZeroShotConfig, class_hits, fill

if TYPE_CHECKING:
    from evaluation.features import Features, PictureReader

Severity = Annotated[int, Field(ge=1, le=SEVERITIES)]


class RobustnessConfig(ZeroShotConfig):
    """Settings of the evaluator ``robustness``."""

    templates: tuple[str, ...] = Field(default=("a {name}",), min_length=1)
    """Prompts with ``{name}``, ``{plural}`` or ``{group}`` in them; their features are averaged per class."""
    corruptions: tuple[CorruptionName, ...] = Field(
        default=("gaussian_noise", "gaussian_blur", "contrast", "jpeg", "pixelate", "occlusion"), min_length=1
    )
    """Names of ``corruptions.py``; each costs a pass over the pictures for every severity."""
    severities: tuple[Severity, ...] = Field(default=(3,), min_length=1)
    """Of 1 to 5, the strongest last."""
    images: int = Field(default=500, ge=1)
    """Pictures per split at most, chosen by a hash of their keys."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.corruptions)) < len(self.corruptions) or len(set(self.severities)) < len(self.severities):
            raise ValueError("corruptions and severities must each be named once")
        return self


class Robustness:
    """The evaluator ``robustness``: top-1 on corrupted pictures, by corruption and severity."""

    Config: ClassVar[type[Section]] = RobustnessConfig
    needs: ClassVar[Mapping[str, frozenset[str]]] = {"zero_shot": frozenset({"images", "pictures"})}

    def __init__(self, config: RobustnessConfig, bootstrap: Bootstrap) -> None:
        self._config = config
        self._bootstrap = bootstrap

    def run(self, features: "Features") -> Result:
        """Classify corrupted pictures of every split of the role ``zero_shot``.

        Args:
            features: Image features and readers of pictures of the splits, the classes, and the text side.

        Returns:
            Metrics and intervals per suite, and the table ``corruptions`` with the undamaged pictures as ``none``,
            severity 0.

        Raises:
            DataError: Images and classes of a split do not cover each other.
        """
        result = Result(metrics={}, intervals={}, tables={"corruptions": []})
        splits = features.with_role("zero_shot")
        # classes that lack images must fail before any picture is encoded again
        labels = [class_labels(split, features.classes) for split in splits]
        class_features = self._class_features(features) if splits else np.empty((0, 0), dtype=np.float32)
        for split, label in zip(splits, labels, strict=True):
            assert split.pictures is not None
            rows = sorted(draw_order(split.keys)[: self._config.images])
            clean = class_hits(split.image_features[rows], class_features, label[rows], (1,))
            hits = self._corrupted(split.pictures, rows, class_features, label[rows])
            result.metrics[split.suite], result.intervals[split.suite] = self._score(clean, hits)
            result.metrics[split.suite]["chance_top1"] = 1 / len(features.classes)
            result.tables["corruptions"] += self._rows(split.suite, clean, hits)
        return result

    def _class_features(self, features: "Features") -> Array:
        """Return the unit-norm mean over templates, [C, D]."""
        templates = self._config.templates
        prompts = [fill(template, facts) for facts in features.classes for template in templates]
        return unit(features.text.encode(prompts).reshape(len(features.classes), len(templates), -1).mean(axis=1))

    def _corrupted(
        self, pictures: "PictureReader", rows: Sequence[int], class_features: Array, labels: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        """Return the hit of each picture under each corruption and severity, [corruptions, severities, I]."""
        return np.array(
            [
                [
                    class_hits(
                        pictures.encode(Corruption(name, severity), f"{name} {severity}", rows).image_features,
                        class_features,
                        labels,
                        (1,),
                    )[:, 0]
                    for severity in self._config.severities
                ]
                for name in self._config.corruptions
            ]
        )

    def _score(
        self, clean: npt.NDArray[np.float64], hits: npt.NDArray[np.float64]
    ) -> tuple[dict[str, float | int], dict[str, Interval]]:
        """Average the hits, [I, 1] of undamaged pictures and [corruptions, severities, I] of the others."""
        names = ("top1", "corrupted_top1", *(f"{name}_top1" for name in self._config.corruptions))
        columns = np.concatenate([clean, hits.mean(axis=(0, 1))[:, None], hits.mean(axis=1).T], axis=1)
        groups: list[Columns] = [(names, columns)]
        metrics, intervals = summarise(groups, self._bootstrap)
        if metrics["top1"] > 0:
            metrics["num_retained"] = metrics["corrupted_top1"] / metrics["top1"]
        return {**metrics, "num_images": len(clean)}, intervals

    def _rows(self, suite: str, clean: npt.NDArray[np.float64], hits: npt.NDArray[np.float64]) -> list[dict[str, Any]]:
        """Return the rows of ``corruptions.parquet`` of one suite."""
        found = [("none", 0, float(clean.mean()))]
        for name, by_severity in zip(self._config.corruptions, hits.mean(axis=2).tolist(), strict=True):
            found += zip([name] * len(by_severity), self._config.severities, by_severity, strict=True)
        names = ("suite", "corruption", "severity", "top1")
        return [dict(zip(names, (suite, *row), strict=True)) for row in found]
