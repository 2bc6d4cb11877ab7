"""Retrieval concept by concept: how well are the captions and the pictures found that a concept occurs in?

Text to image: a caption is right when its picture is among the first k; a concept's score is the mean over the captions
that contain it. Image to text: a picture is right when any of its captions is; the mean is over the pictures that have
the concept in any of theirs (arXiv 2404.04125, retrieval part). Ties count as their expectation (``ranking.py``).
"""

import numpy as np
import numpy.typing as npt

from evaluation.ranking import cosines, count_above, expected_hits

KS = (1, 5, 10)
_QUERIES_AT_ONCE = 1024
Scores = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


def caption_hits(
    text_features: npt.NDArray[np.float32], image_features: npt.NDArray[np.float32], owners: Rows
) -> Scores:
    """Search pictures with captions.

    Args:
        text_features: Unit norm, [captions, D].
        image_features: Unit norm, [images, D].
        owners: The picture of each caption, [captions].

    Returns:
        Whether a caption's own picture is among the first 1, 5 and 10, in 0..1, [captions, 3].
    """
    everyone = np.arange(len(image_features))
    return _hits(text_features, image_features, owners, everyone)


def image_hits(image_features: npt.NDArray[np.float32], text_features: npt.NDArray[np.float32], owners: Rows) -> Scores:
    """Search captions with pictures.

    Args:
        image_features: Unit norm, [images, D].
        text_features: Unit norm, [captions, D].
        owners: The picture of each caption, every picture has at least one, [captions].

    Returns:
        Whether any of a picture's captions is among the first 1, 5 and 10, in 0..1, [images, 3].
    """
    return _hits(image_features, text_features, np.arange(len(image_features)), owners)


def _hits(queries: npt.NDArray[np.float32], candidates: npt.NDArray[np.float32], wanted: Rows, offered: Rows) -> Scores:
    """Say whether a candidate with the query's number is among the first k, [queries, 3]."""
    ones = np.ones(len(candidates), dtype=np.int64)
    parts: list[Scores] = []
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        rows = slice(start, start + _QUERIES_AT_ONCE)
        above = count_above(cosines(queries[rows], candidates), wanted[rows, None] == offered, ones)
        parts.append(np.stack([expected_hits(*above, k) for k in KS], axis=1))
    return np.concatenate(parts)


def concept_means(hits: Scores, members: Rows, concepts: Rows, size: int) -> tuple[Scores, Rows]:
    """Average hits over the queries that contain each concept.

    Args:
        hits: [queries, 3].
        members: A query that contains a concept, once per pair of both, [m].
        concepts: The concept, [m].
        size: How many concepts there are, K.

    Returns:
        Mean of each concept, NaN for those of no query, [K, 3], and queries of each, [K].
    """
    counts = np.bincount(concepts, minlength=size).astype(np.int64)
    sums = np.zeros((size, hits.shape[1]))
    np.add.at(sums, concepts, hits[members])
    with np.errstate(invalid="ignore"):
        return sums / counts[:, None], counts
