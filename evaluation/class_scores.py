"""What all classifiers of images share: labels that fit the classes, hits, means over images and classes, chance."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from assets.errors import DataError, message
from evaluation.base import Interval
from evaluation.intervals import Bootstrap
from evaluation.ranking import count_above, expected_hits

if TYPE_CHECKING:
    from evaluation.features import SplitFeatures
    from evaluation.samples import ClassFacts

Columns = tuple[tuple[str, ...], npt.NDArray[np.float64]]


def class_labels(split: "SplitFeatures", classes: Sequence["ClassFacts"], least: int = 1) -> npt.NDArray[np.int64]:
    """Return the row of every image's class, after checking that images and classes cover each other.

    Args:
        split: A split of the role ``zero_shot``.
        classes: The C classes.
        least: Images that every class must have.

    Returns:
        Rows in ``classes``, [n].

    Raises:
        DataError: An image is of no known class, or a class has too few images.
    """
    assert split.class_ids is not None
    position = {facts.class_id: row for row, facts in enumerate(classes)}
    if strange := sorted(set(split.class_ids) - set(position)):
        raise DataError(
            message(
                f"split {split.split}: {len(strange)} class ids are not in dataset.json, the first is {strange[0]!r}",
                fix="ingest the data set anew",
            )
        )
    counts = Counter(split.class_ids)
    if short := [facts.name for facts in classes if counts[facts.class_id] < least]:
        lack = "no accepted image" if least == 1 else f"fewer than {least} accepted images"
        raise DataError(
            message(
                f"split {split.split}: {len(short)} of {len(classes)} classes have {lack}, the first is {short[0]!r}",
                fix="loosen the validation that rejected them, or leave the classes out of dataset.json",
            )
        )
    return np.array([position[class_id] for class_id in split.class_ids], dtype=np.int64)


def label_hits(
    scores: npt.NDArray[np.int32], labels: npt.NDArray[np.int64], ks: Sequence[int]
) -> npt.NDArray[np.float64]:
    """Score every image: is its class among the first k?

    Args:
        scores: Quantised score of every class, [images, C].
        labels: Class of each image, [images].
        ks: The cut-offs.

    Returns:
        Expected hits in 0..1, [images, len(ks)].
    """
    relevant = labels[:, None] == np.arange(scores.shape[1])
    counts = count_above(scores, relevant, np.ones(scores.shape[1], dtype=np.int64))
    return np.stack([expected_hits(*counts, k) for k in ks], axis=1)


def class_means(scores: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Average the scores of the images of each class.

    Args:
        scores: [images, metrics].
        labels: Class of each image, every class in 0..max present, [images].

    Returns:
        [C, metrics].
    """
    classes = int(labels.max()) + 1
    sums = np.zeros((classes, scores.shape[1]))
    np.add.at(sums, labels, scores)
    return sums / np.bincount(labels, minlength=classes)[:, None]


def summarise(groups: Sequence[Columns], bootstrap: Bootstrap) -> tuple[dict[str, float | int], dict[str, Interval]]:
    """Average over units, with an interval for each metric.

    Args:
        groups: Names of metrics and their scores, [units, metrics]; columns of one group are resampled together.
        bootstrap: The source of intervals.

    Returns:
        Metric -> mean, and metric -> (low, high).
    """
    metrics: dict[str, float | int] = {}
    intervals: dict[str, Interval] = {}
    for names, scores in groups:
        bounds = bootstrap.means(scores)
        for column, name in enumerate(names):
            metrics[name] = float(scores[:, column].mean())
            intervals[name] = (float(bounds[column, 0]), float(bounds[column, 1]))
    return metrics, intervals


def chances(classes: int) -> dict[str, float]:
    """Return what a model without skill gets on that many classes."""
    one, five = 1 / classes, min(5, classes) / classes
    return {"chance_top1": one, "chance_top5": five, "chance_mean_per_class": one}
