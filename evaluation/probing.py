"""The protocol of probes: classifiers trained on frozen features of the labelled images, tested on others of them.

Only splits of the role ``zero_shot`` have labels, so each suite is cross-validated: its images are dealt into folds,
and every image is scored once, by a classifier trained on the other folds. Besides, one classifier trained on all of
``in_domain`` is tested on every other suite (``transfer_*``): are the features of a class the same in another style?
Folds follow a hash of the keys, so every model is cut the same way, whatever the order of the samples.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import Field

from assets.section import Section
from evaluation.base import Result
from evaluation.class_scores import Columns, chances, class_labels, class_means, label_hits, summarise

if TYPE_CHECKING:
    from evaluation.features import Features, SplitFeatures
    from evaluation.intervals import Bootstrap

SOURCE = "in_domain"
Labels = npt.NDArray[np.int64]
Scores = npt.NDArray[np.int32]


class ProbeConfig(Section):
    """What all probes are told."""

    features: Literal["pooled", "projected"]
    """Image features before the projection to the shared space, or after it (what zero-shot uses). They are the same
    for towers that pool and project in one, as open_clip's ResNets do."""
    folds: int = Field(ge=2, le=100)
    """Parts of each suite; every part is scored by a probe trained on the others. Never more than the median class has
    images: beyond that an image's own class would be rarer in training than the others, and guessed less often."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Labelled images.

    Attributes:
        keys: Sample keys, [n].
        features: Frozen image features, [n, D].
        labels: Class of each image, [n].
        num_classes: C; some may be without an image.
    """

    keys: tuple[str, ...]
    features: npt.NDArray[np.float32]
    labels: Labels
    num_classes: int

    def take(self, chosen: npt.NDArray[np.bool_]) -> "Labelled":
        """Return the images that a mask [n] chooses."""
        rows = np.flatnonzero(chosen)
        keys = tuple(self.keys[row] for row in rows)
        return Labelled(keys, self.features[rows], self.labels[rows], self.num_classes)


class Classifier(Protocol):
    """Learns from labelled images and scores others."""

    def __call__(self, train: Labelled, tested: npt.NDArray[np.float32], suite: str, part: str) -> Scores:
        """Score images that it did not learn from.

        Args:
            train: What it may learn from.
            tested: Features of the images to score, [m, D].
            suite: Suite of ``train``, for the record.
            part: What is scored, for the record: ``fold_0`` .. or ``transfer``.

        Returns:
            Score of every class in whole steps, safe to compare for equality, [m, C].
        """
        ...


def class_places(keys: Sequence[str], labels: Labels, purpose: str) -> Labels:
    """Put the images of each class in an order that depends on keys only, and return each image's place from 0.

    Args:
        keys: Sample keys, [n].
        labels: Class of each sample, [n].
        purpose: Different words give unrelated orders.

    Returns:
        [n].
    """
    digests = [hashlib.blake2b(f"{purpose}/{key}".encode(), digest_size=8).digest() for key in keys]
    places = np.empty(len(keys), dtype=np.int64)
    met: dict[int, int] = {}
    for row in sorted(range(len(keys)), key=lambda row: (digests[row], keys[row])):
        label = int(labels[row])
        places[row] = met.get(label, 0)
        met[label] = places[row] + 1
    return places


def deal_folds(keys: Sequence[str], labels: Labels, folds: int) -> Labels:
    """Deal images into folds, class by class, so that neither classes nor folds differ by more than one image.

    Args:
        keys: Sample keys, [n].
        labels: Class of each sample, [n].
        folds: How many.

    Returns:
        Fold of each image, 0..folds - 1, [n].
    """
    counts = np.bincount(labels)
    before = np.cumsum(counts) - counts  # each class goes on where the one before it ended
    return (before[labels] + class_places(keys, labels, "fold")) % folds


def run_probe(features: "Features", config: ProbeConfig, bootstrap: "Bootstrap", classify: Classifier) -> Result:
    """Score one model by the protocol.

    Args:
        features: Features with the role ``zero_shot``.
        config: Which features, how many folds.
        bootstrap: The source of intervals.
        classify: The classifier.

    Returns:
        ``top1``, ``top5``, ``mean_per_class`` of the cross-validation per suite, the same as ``transfer_*`` for
        suites other than ``in_domain`` where there is one, chance levels and counts.
    """
    suites = {split.suite: _labelled(split, features, config) for split in features.with_role("zero_shot")}
    transfer = _transfer(suites, classify)
    result = Result(metrics={}, intervals={})
    for suite, images in suites.items():
        hits = {"": _cross_validate(suite, images, config.folds, classify)}
        if suite in transfer:
            hits["transfer_"] = transfer[suite]
        groups: list[Columns] = []
        for prefix, scores in hits.items():
            groups.append(((f"{prefix}top1", f"{prefix}top5"), scores))
            groups.append(((f"{prefix}mean_per_class",), class_means(scores, images.labels)[:, :1]))
        metrics, result.intervals[suite] = summarise(groups, bootstrap)
        counts = {"num_classes": images.num_classes, "num_images": len(images.keys)}
        result.metrics[suite] = {**metrics, **chances(images.num_classes), **counts}
    return result


def _labelled(split: "SplitFeatures", features: "Features", config: ProbeConfig) -> Labelled:
    """Return the labelled images of a split; each class needs one to learn from and one to test with."""
    labels = class_labels(split, features.classes, least=2)
    chosen = split.pooled_features if config.features == "pooled" else split.image_features
    assert chosen is not None
    return Labelled(tuple(split.keys), chosen, labels, len(features.classes))


def _cross_validate(suite: str, images: Labelled, folds: int, classify: Classifier) -> npt.NDArray[np.float64]:
    """Return the hits of every image for k = 1 and 5, [n, 2]."""
    most = int(np.median(np.bincount(images.labels)))
    fold = deal_folds(images.keys, images.labels, min(folds, most))
    hits = np.empty((len(images.keys), 2))
    for number in np.unique(fold):
        test = fold == number
        scores = classify(images.take(~test), images.features[test], suite, f"fold_{number}")
        hits[test] = label_hits(scores, images.labels[test], (1, 5))
    return hits


def _transfer(suites: Mapping[str, Labelled], classify: Classifier) -> dict[str, npt.NDArray[np.float64]]:
    """Train once on all of ``in_domain``; return the hits of every image of each other suite, [n, 2]."""
    others = {suite: images for suite, images in suites.items() if suite != SOURCE}
    if SOURCE not in suites or not others:
        return {}
    tested = np.concatenate([images.features for images in others.values()])
    scores = classify(suites[SOURCE], tested, SOURCE, "transfer")
    ends = np.cumsum([len(images.keys) for images in others.values()])
    parts = zip(others.items(), np.split(scores, ends[:-1]), strict=True)
    return {suite: label_hits(part, images.labels, (1, 5)) for (suite, images), part in parts}
