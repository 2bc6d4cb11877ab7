"""What can be counted about word vectors: active words, junk, the strongest words, search with cut vectors."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evaluation.ranking import STEP, count_above, expected_hits
from evaluation.words.cut import CutConfig, cut

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Array = npt.NDArray[np.float32]
_ROWS_AT_ONCE = 512


class Usage(NamedTuple):
    """How widespread every word is.

    Attributes:
        active: In how many vectors each word is kept, [V].
        weights: Sum of its weights there, [V].
        mass: Sum of their squares, [V].
    """

    active: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]
    mass: npt.NDArray[np.float64]


def cut_rows(vectors: Array, config: CutConfig) -> "csr_matrix":
    """Cut vectors as an index does, some at a time.

    Args:
        vectors: Word vectors, unit norm, [n, V].
        config: What is kept.

    Returns:
        Not normalised again, [n, V].
    """
    from scipy.sparse import csr_matrix, vstack

    starts = range(0, len(vectors), _ROWS_AT_ONCE)
    return csr_matrix(vstack([cut(vectors[start : start + _ROWS_AT_ONCE], config) for start in starts]))


def scores(queries: "csr_matrix", candidates: "csr_matrix") -> npt.NDArray[np.int32]:
    """Return inner products in whole multiples of ``ranking.STEP``, [queries, candidates].

    Args:
        queries: Word vectors of at most unit norm, [queries, V].
        candidates: The same, [candidates, V].
    """
    left, right = queries.astype(np.float64), candidates.astype(np.float64)
    product: Any = left @ right.T
    return np.rint(product.toarray() / STEP).astype(np.int32)


def recalls_at_one(
    images: "csr_matrix", texts: "csr_matrix", text_rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Search pairs both ways; only a pair's own partner is right, and ties count as their expectation.

    The same question as :func:`evaluation.retrieval.rank_pairs` asks, for vectors that are sparse.

    Args:
        images: Cut vectors of the pictures, [n, V].
        texts: Cut vectors of the distinct captions, [u, V].
        text_rows: Row of each picture's caption, [n].

    Returns:
        Expected hits of pictures as queries and of captions as queries, [n, 2].
    """
    pairs = len(text_rows)
    num_texts = texts.get_shape()[0]
    copies = np.bincount(text_rows, minlength=num_texts).astype(np.int64)
    every, rows = np.ones(pairs, dtype=np.int64), np.arange(pairs)
    found: list[npt.NDArray[np.float64]] = []
    for start in range(0, pairs, _ROWS_AT_ONCE):
        part = rows[start : start + _ROWS_AT_ONCE]
        by_image = scores(images[part], texts)  # [queries, u]
        own = text_rows[part, None] == np.arange(num_texts)
        by_text = scores(texts[text_rows[part]], images)  # [queries, n]
        above, tied, _ = count_above(by_image, own, copies)
        # copies of the own caption are tied with it, and one of them is the partner
        forward = expected_hits(above, tied, every[: len(part)], 1)
        above, tied, right = count_above(by_text, part[:, None] == rows, every)
        found.append(np.stack([forward, expected_hits(above, tied, right, 1)], axis=1))
    return np.concatenate(found)


def usage(kept: "csr_matrix") -> Usage:
    """Count words over cut vectors, [n, V]."""
    squares: Any = kept.multiply(kept)
    number = kept.get_shape()[1]
    active = np.bincount(kept.indices, minlength=number).astype(np.int64)
    weights, mass = (np.asarray(matrix.sum(axis=0), dtype=np.float64).ravel() for matrix in (kept, squares))
    return Usage(active, weights, mass)


def mass_share(used: Usage, words: npt.NDArray[np.bool_]) -> float:
    """Return the share of the squared weights that lies on some words; 0 where nothing is active.

    Args:
        used: Of cut vectors.
        words: Which ones, [V].
    """
    total = float(used.mass.sum())
    return float(used.mass[words].sum()) / total if total else 0.0


def overuse(vectors: Array) -> float:
    """Return V * sum of a^3 / sum of a for the mean weights a of the words: 1 if all are equal, V if one is all.

    Args:
        vectors: Word vectors, not cut, [n, V].
    """
    means = vectors.mean(axis=0, dtype=np.float64)
    return float(len(means) * (means**3).sum() / max(means.sum(), 1e-12))


def mean_overlap(vectors: Array) -> float:
    """Return the sum of a^2 for the mean weights a of the words (FLOPs of SPLADE): the mean over all pairs' products.

    Args:
        vectors: Word vectors, not cut, [n, V].
    """
    return float((vectors.mean(axis=0, dtype=np.float64) ** 2).sum())


def strongest(vectors: Array, number: int) -> npt.NDArray[np.int64]:
    """Return the words of the largest weights, falling, of equal ones the lower number first.

    Args:
        vectors: Word vectors, [n, V].
        number: How many, at most V.

    Returns:
        [n, number].
    """
    starts = range(0, len(vectors), _ROWS_AT_ONCE)
    parts = [
        np.argsort(-vectors[start : start + _ROWS_AT_ONCE], axis=1, kind="stable")[:, :number].copy()
        for start in starts
    ]
    return np.concatenate(parts)


def chance_of_one(known: int, drawn: float, num_words: int) -> float:
    """Return how likely one of some words is among words drawn at random.

    Args:
        known: How many words would do.
        drawn: How many are drawn, on average.
        num_words: V.
    """
    left = 1.0
    for word in range(known):
        left *= max(num_words - drawn - word, 0.0) / (num_words - word)
    return 1.0 - left


def places_of(words: Sequence[str]) -> dict[str, list[int]]:
    """Return the numbers of words by how they are written in lower case.

    Args:
        words: [V].
    """
    found: dict[str, list[int]] = {}
    for place, word in enumerate(words):
        found.setdefault(word.casefold(), []).append(place)
    return found
