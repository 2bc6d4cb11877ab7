"""PatchDis: patches as a segmentation. Every patch gets a class, and its patches together are the class's mask.

Patch and class vectors have unit norm; a patch gets the class of the highest inner product. Predictions are brought to
pixels by nearest neighbour, and for each class c true positives, predicted and labelled pixels are summed over the
whole data set (LexVLA, section 4.4, published without these details, which are our reading):

    IoU_c = TP_c / (predicted_c + labelled_c - TP_c),    PatchDis = mean of IoU_c over the classes that are labelled

- ``all``: any of the C classes may win; unlabelled pixels do not count.
- ``present``: the classes labelled in the picture compete; unlabelled pixels do not count.
- ``bg``: a patch whose best similarity is below theta is background, class C, and so are unlabelled pixels; the mean
  is over the other classes.

A pixel whose label is not in 0..C-1 is unlabelled. The measure says where, not what: it is blind to words that are
permuted on both sides.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.signedinteger[Any]] | npt.NDArray[np.unsignedinteger[Any]]
Floats = npt.NDArray[np.floating[Any]]
Similarities = npt.NDArray[np.float64]
Classes = npt.NDArray[np.int32]


def similarities(patches: Floats, classes: Floats) -> Similarities:
    """Return the inner product of every patch with every class, in float64.

    Args:
        patches: Unit norm, [..., V].
        classes: Unit norm, [C, V].

    Returns:
        [..., C].
    """
    return patches.astype(np.float64) @ classes.astype(np.float64).T


def predict_all(found: Similarities) -> Classes:
    """Return the class of the highest similarity, the first one of equals.

    Args:
        found: [I, g, g, C].

    Returns:
        [I, g, g].
    """
    return found.argmax(axis=-1).astype(np.int32)


def present_classes(labels: Integers, num_classes: int) -> npt.NDArray[np.bool_]:
    """Say which classes are labelled in each picture.

    Args:
        labels: [I, H, W].
        num_classes: C.

    Returns:
        [I, C].
    """
    present = np.zeros((len(labels), num_classes), dtype=np.bool_)
    for picture, label in enumerate(labels):
        present[picture, [found for found in np.unique(label).tolist() if 0 <= found < num_classes]] = True
    return present


def predict_present(found: Similarities, present: npt.NDArray[np.bool_]) -> Classes:
    """Return the class of the highest similarity among those in the picture; 0 where a picture has none.

    Args:
        found: [I, g, g, C].
        present: See :func:`present_classes`, [I, C].

    Returns:
        [I, g, g].
    """
    return np.where(present[:, None, None], found, -np.inf).argmax(axis=-1).astype(np.int32)


def predict_background(predictions: Classes, best: Floats, theta: float, num_classes: int) -> Classes:
    """Turn patches without a similar class into background.

    Args:
        predictions: Of mode ``all``, [I, g, g].
        best: Highest similarity of each patch, [I, g, g].
        theta: Below it a patch is background.
        num_classes: C, which stands for background.

    Returns:
        [I, g, g].
    """
    return np.where(best < theta, num_classes, predictions).astype(np.int32)


def with_background(labels: Integers, num_classes: int) -> npt.NDArray[np.int32]:
    """Label the unlabelled pixels as background, C.

    Args:
        labels: [I, H, W].
        num_classes: C.
    """
    signed = labels.astype(np.int32)
    return np.where((signed >= 0) & (signed < num_classes), signed, num_classes).astype(np.int32)


def to_pixels(grid: npt.NDArray[Any], height: int, width: int) -> npt.NDArray[Any]:
    """Bring one value per patch to pixels: each takes the patch that its centre lies in.

    Args:
        grid: [..., rows, columns].
        height: Of the picture.
        width: Of the picture.

    Returns:
        [..., height, width].
    """
    rows, columns = grid.shape[-2:]
    down = (2 * np.arange(height) + 1) * rows // (2 * height)
    across = (2 * np.arange(width) + 1) * columns // (2 * width)
    return grid[..., down[:, None], across]


def overlaps(predictions: Integers, labels: Integers, num_classes: int) -> npt.NDArray[np.int64]:
    """Count pixels per picture and class; unlabelled ones do not count.

    Args:
        predictions: Of patches, in 0..C-1, [I, g, g].
        labels: Of pixels, [I, H, W].
        num_classes: C; with background, one more, and labels of :func:`with_background`.

    Returns:
        True positives, predicted and labelled pixels, [I, 3, C]; sums over pictures are those of the data set.
    """
    counts = np.zeros((len(labels), 3, num_classes), dtype=np.int64)
    for picture, label in enumerate(labels):
        predicted = to_pixels(predictions[picture], *label.shape).astype(np.int64)
        known = (label.astype(np.int64) >= 0) & (label < num_classes)
        predicted, labelled = predicted[known], label[known].astype(np.int64)
        for place, pixels in enumerate((labelled[predicted == labelled], predicted, labelled)):
            counts[picture, place] = np.bincount(pixels, minlength=num_classes)
    return counts


def class_iou(counts: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the intersection over union of every class.

    Args:
        counts: True positives, predicted and labelled pixels of the data set, [..., 3, C].

    Returns:
        [..., C], nan for classes that are not labelled.
    """
    hits, predicted, labelled = (counts[..., place, :].astype(np.float64) for place in range(3))
    return np.where(labelled > 0, hits / np.maximum(predicted + labelled - hits, 1), np.nan)


def mean_iou(counts: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Average the intersection over union over the labelled classes.

    Args:
        counts: As :func:`class_iou` wants them, [..., 3, C]; leave the last class out for the mean over foreground.

    Returns:
        [...]; nan where no class is labelled.
    """
    iou = class_iou(counts)
    present = ~np.isnan(iou)
    sums, sizes = np.where(present, iou, 0).sum(axis=-1), present.sum(axis=-1)
    return np.where(sizes > 0, sums / np.maximum(sizes, 1), np.nan)


def choose_theta(
    predictions: Classes, best: Floats, labels: Integers, num_classes: int, thetas: Sequence[float]
) -> float:
    """Return the threshold that gives the best foreground mean in mode ``bg``; use other pictures than those scored.

    Args:
        predictions: Of mode ``all``, [I, g, g].
        best: Highest similarity of each patch, [I, g, g].
        labels: [I, H, W].
        num_classes: C.
        thetas: Candidates, at least one; the first one of equals is taken.
    """
    truth = with_background(labels, num_classes)
    scores: list[float] = []
    for theta in thetas:
        predicted = predict_background(predictions, best, theta, num_classes)
        counts = overlaps(predicted, truth, num_classes + 1).sum(axis=0)
        scores.append(float(mean_iou(counts[:, :num_classes])))
    return thetas[int(np.nan_to_num(scores, nan=-1.0).argmax())]
