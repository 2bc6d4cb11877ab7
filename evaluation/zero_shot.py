"""Zero-shot classification: an image belongs to the class whose prompts it resembles most.

A class is the unit-norm mean of the text features of all templates filled with its name (Radford et al. 2021,
section 3.1.4, https://arxiv.org/abs/2103.00020). Scores are cosines; ties count as their expectation (``ranking.py``),
so a model without any skill lands on chance, 1 / classes.
"""

import string
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from assets.section import Section
from evaluation.base import Interval, Result
from evaluation.class_scores import Columns, chances, class_labels, class_means, label_hits, summarise
from evaluation.intervals import Bootstrap
from evaluation.ranking import STEP, cosines

if TYPE_CHECKING:
    from evaluation.features import Features, SplitFeatures
    from evaluation.samples import ClassFacts

FIELDS = ("name", "plural", "group")
NO_FREQUENCY = ""
"""``ClassFacts.frequency`` of classes of which nobody counted the training samples."""
_IMAGES_AT_ONCE = 4096


class ZeroShotConfig(Section):
    """Settings of the evaluator ``zero_shot``."""

    templates: tuple[str, ...] = Field(min_length=1)
    """Prompts with ``{name}``, ``{plural}`` or ``{group}`` in them; their features are averaged per class."""

    @field_validator("templates")
    @classmethod
    def _check_fields(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            fields = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
            if not {"name", "plural"} & set(fields) or set(fields) - set(FIELDS):
                raise ValueError(f"template {template!r} must name the class with {{name}} or {{plural}}")
        return templates


def class_hits(
    image_features: npt.NDArray[np.float32],
    class_features: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    ks: Sequence[int],
) -> npt.NDArray[np.float64]:
    """Score every image: is its class among the first k?

    Args:
        image_features: Unit norm, [images, D].
        class_features: Unit norm, [C, D].
        labels: Row of each image's class in ``class_features``, [images].
        ks: The cut-offs.

    Returns:
        Expected hits in 0..1, [images, len(ks)].
    """
    parts: list[npt.NDArray[np.float64]] = []
    for start in range(0, len(image_features), _IMAGES_AT_ONCE):
        rows = slice(start, start + _IMAGES_AT_ONCE)
        parts.append(label_hits(cosines(image_features[rows], class_features), labels[rows], ks))
    return np.concatenate(parts)


def nearest_classes(
    image_features: npt.NDArray[np.float32], class_features: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Find the class that each image resembles most, and how far its own class is from the best other one.

    Args:
        image_features: Unit norm, [images, D].
        class_features: Unit norm, [C, D].
        labels: Row of each image's class in ``class_features``, [images].

    Returns:
        Row of the nearest class, the own one where it ties, [images]; cosine of the own class minus that of the best
        other one, 0 where there is no other, [images].
    """
    nearest: list[npt.NDArray[np.int64]] = []
    margins: list[npt.NDArray[np.float64]] = []
    for start in range(0, len(image_features), _IMAGES_AT_ONCE):
        rows = slice(start, start + _IMAGES_AT_ONCE)
        scores = cosines(image_features[rows], class_features).astype(np.int64)  # [images, C]
        own_place = labels[rows, None] == np.arange(scores.shape[1])
        own = scores[own_place]
        others = np.where(own_place, np.iinfo(np.int64).min, scores)
        best = others.max(axis=1) if scores.shape[1] > 1 else own
        nearest.append(np.where(own >= best, labels[rows], others.argmax(axis=1)))
        margins.append((own - best).astype(np.float64) * STEP)
    return np.concatenate(nearest), np.concatenate(margins)


def fill(template: str, facts: "ClassFacts") -> str:
    """Put a class's words into a template."""
    return template.format(name=facts.name, plural=facts.plural, group=facts.group)


class ZeroShot:
    """The evaluator ``zero_shot``: top-1, top-5, mean per class, and accuracy of head, mid and tail classes."""

    Config: ClassVar[type[Section]] = ZeroShotConfig
    needs: ClassVar[Mapping[str, frozenset[str]]] = {"zero_shot": frozenset({"images"})}

    def __init__(self, config: ZeroShotConfig, bootstrap: Bootstrap) -> None:
        self._config = config
        self._bootstrap = bootstrap

    def run(self, features: "Features") -> Result:
        """Classify the images of every split of the role ``zero_shot``.

        Args:
            features: Image features of the splits, the classes, and the text side.

        Returns:
            Metrics and intervals per suite, and the tables ``per_class`` and ``per_image``.
        """
        class_features = self._class_features(features)
        result = Result(metrics={}, intervals={}, tables={"per_class": [], "per_image": []})
        for split in features.with_role("zero_shot"):
            labels = class_labels(split, features.classes)
            hits = class_hits(split.image_features, class_features, labels, (1, 5))
            per_class = class_means(hits, labels)
            metrics, intervals = self._summarise(hits, per_class, features.classes)
            result.metrics[split.suite] = metrics
            result.intervals[split.suite] = intervals
            result.tables["per_class"] += _class_rows(split, labels, per_class, features.classes)
            nearest = nearest_classes(split.image_features, class_features, labels)
            result.tables["per_image"] += _image_rows(split, labels, hits, nearest, features.classes)
        return result

    def _class_features(self, features: "Features") -> npt.NDArray[np.float32]:
        """Return the unit-norm mean over templates, [C, D]."""
        templates = self._config.templates
        prompts = [fill(template, facts) for facts in features.classes for template in templates]
        text_features = features.text.encode(prompts)  # [C * templates, D]
        means = text_features.reshape(len(features.classes), len(templates), -1).mean(axis=1)
        return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)

    def _summarise(
        self, hits: npt.NDArray[np.float64], per_class: npt.NDArray[np.float64], classes: Sequence["ClassFacts"]
    ) -> tuple[dict[str, float | int], dict[str, Interval]]:
        """Average over images (top-k) and over classes (all others), with an interval for each.

        Args:
            hits: [images, 2] for k = 1 and 5.
            per_class: [C, 2].
            classes: The C classes.
        """
        groups: list[Columns] = [
            (("top1", "top5"), hits),
            (("mean_per_class",), per_class[:, :1]),
        ]
        for frequency in sorted({facts.frequency for facts in classes} - {NO_FREQUENCY}):
            rows = [row for row, facts in enumerate(classes) if facts.frequency == frequency]
            groups.append(((frequency,), per_class[rows, :1]))
        metrics, intervals = summarise(groups, self._bootstrap)
        return {**metrics, **chances(len(classes)), "num_classes": len(classes), "num_images": len(hits)}, intervals


def _class_rows(
    split: "SplitFeatures",
    labels: npt.NDArray[np.int64],
    per_class: npt.NDArray[np.float64],
    classes: Sequence["ClassFacts"],
) -> list[dict[str, object]]:
    """Return the rows of ``per_class.parquet`` of one suite, in the order of dataset.json."""
    counts = np.bincount(labels, minlength=len(classes))
    return [
        {
            "suite": split.suite,
            "class_id": facts.class_id,
            "name": facts.name,
            "group": facts.group,
            "frequency": facts.frequency,
            "train_count": facts.train_count,
            "num_images": int(counts[row]),
            "top1": float(per_class[row, 0]),
            "top5": float(per_class[row, 1]),
        }
        for row, facts in enumerate(classes)
    ]


def _image_rows(
    split: "SplitFeatures",
    labels: npt.NDArray[np.int64],
    hits: npt.NDArray[np.float64],
    nearest: tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]],
    classes: Sequence["ClassFacts"],
) -> list[dict[str, object]]:
    """Return the rows of ``per_image.parquet`` of one suite: what paired comparisons and failure cases read."""
    ids = [facts.class_id for facts in classes]
    columns = zip(split.keys, labels.tolist(), nearest[0].tolist(), hits.tolist(), nearest[1].tolist(), strict=True)
    return [
        {
            "suite": split.suite,
            "key": key,
            "class_id": ids[label],
            "predicted": ids[guess],
            "top1": top1,
            "top5": top5,
            "margin": margin,
        }
        for key, label, guess, (top1, top5), margin in columns
    ]
