"""From scores of pictures to the concepts they show: everything strictly above a threshold, in half precision."""

import numpy as np
from numpy.typing import NDArray

from assets.concepts.csr import Csr

_TAKEN_AS_NAMED = 3
_SIGMAS = 3


def csr_of(rows: NDArray[np.int64], concepts: NDArray[np.int64], size: int) -> Csr:
    """Return rows of concepts from single finds.

    Args:
        rows: Row of each find, int64 [m], any order.
        concepts: Its concept, int64 [m]; no find stands twice.
        size: Number of rows, n.
    """
    order = np.lexsort((concepts, rows))
    pointer = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=size))]).astype(np.int64)
    return Csr(pointer, concepts[order].astype(np.int32))


def hits_above(scores: NDArray[np.float16], threshold: float | NDArray[np.float16]) -> Csr:
    """Tag pictures with the concepts that score above a threshold.

    Scores and thresholds are compared as float16, so a threshold of 0.7 is 0.70019..., and a score of exactly that is
    no hit.

    Args:
        scores: Of pictures and concepts, float16 [n, K].
        threshold: One for all, or one per concept, [K].
    """
    rows, concepts = np.nonzero(scores > np.asarray(threshold, dtype=np.float16))
    return csr_of(rows, concepts, len(scores))


def calibrate(scores: NDArray[np.float16], named: NDArray[np.bool_], precision: float) -> NDArray[np.float16]:
    """Return the lowest threshold of each concept that leaves an estimated share of pictures which show it.

    Captions are labels that miss much and err sometimes. If what shows a concept is named in a share c of captions,
    whatever its score, then a share s of named pictures above a threshold means that s / c of them show it (Elkan and
    Noto, KDD 2008). c is read off the best scores: half as many pictures as are named, all of which should show it.
    Concepts that few captions name are taken as named more often than that, so that their thresholds are rather high.

    Args:
        scores: Of pictures and concepts, float16 [n, K]; -inf is never above a threshold.
        named: Whether the caption names the concept, bool [n, K].
        precision: The share of pictures above a threshold that should show the concept.

    Returns:
        float16 [K]; inf where no threshold leaves such a share, or the best scores have no more named pictures than
        chance would leave there.
    """
    size, width = scores.shape
    thresholds = np.full(width, np.inf, dtype=np.float16)
    ranks = np.arange(1, size + 1)
    for concept in range(width):
        order = np.argsort(-scores[:, concept], kind="stable")
        falling, found = scores[order, concept], np.cumsum(named[order, concept])
        if (wanted := _wanted_share(found, precision)) is None:
            continue
        below = np.append(falling[1:], -np.inf).astype(np.float16)  # what follows each rank
        # between equal scores there is no room for a threshold
        ends = np.flatnonzero((falling > below) & (found >= wanted * ranks))
        if len(ends):
            thresholds[concept] = below[ends[-1]]
    return thresholds


def _wanted_share(found: NDArray[np.int64], precision: float) -> float | None:
    """Return the share of named pictures that stands for a precision; None where scores do not tell them from others.

    Args:
        found: Named pictures down to each rank, [n].
        precision: The share that should show the concept.
    """
    size, total = len(found), int(found[-1])
    top = (total + 1) // 2
    if not top:
        return None
    hits, chance = int(found[top - 1]), total / size
    if hits - top * chance <= _SIGMAS * np.sqrt(top * chance * (1 - chance)) and chance < 1:
        return None
    return precision * (hits + _TAKEN_AS_NAMED) / (top + _TAKEN_AS_NAMED)
