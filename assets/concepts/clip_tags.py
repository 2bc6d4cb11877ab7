"""What pictures show according to their embeddings, for data sets that know nothing of their own pictures.

A concept's prototype is the mean of the image vectors whose captions name it, and a picture's score its cosine with
that, after the mean of all pictures is taken off and lengths are made one. A pair has no say in what it is compared
with: where its own caption names the concept, its vector is left out of the mean. Thresholds are set per concept
(``thresholds.py``), from how often captions name what the best scores say is there.

So captions say what concepts look like on the whole, and vectors tell the pairs where they are wrong. What this cannot
do: concepts of a single pair have no prototype and are never found; those of few pairs have a poor one; and things that
always occur together are tagged together. Image counts of this kind compare concepts of one data set; they are no
measure of the world. On planted vectors, with captions that leave a third out, a precision of 0.9 gave tags of which
93-95 % were right and that were 72-76 % of all, and flagged 92-94 % of the wrong captions, 91-94 % of those it flagged
(a tenth and three tenths of the captions wrong; ``tests/assets/concepts/test_clip_tags.py``). Towers that were trained
on the same wrong captions will do worse. arXiv 2404.04125 takes a trained open-set tagger (RAM++) with one threshold
for all concepts, under which fine-grained siblings are all found in each other's pictures.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from assets.concepts.csr import Csr
from assets.concepts.thresholds import calibrate, csr_of, hits_above
from assets.progress import Stage
from assets.sidecar import Sidecar

_IMAGE = 0  # slot of the picture in rows of embeddings
_ROWS = 1 << 14
_SCORES = 1 << 25


class Vectors(Protocol):
    """Image vectors of n pictures, read in pieces."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and width, [n, D]."""
        ...

    def __getitem__(self, rows: slice, /) -> NDArray[np.floating]:
        """Read some rows, [m, D]."""
        ...


@dataclass(frozen=True, slots=True)
class ImageVectors:
    """The pictures' side of a folder of embeddings.

    Attributes:
        sidecar: Rows float16 [2, D], image first.
        positions: Of each pair in it, int64 [n].
    """

    sidecar: Sidecar
    positions: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and width, [n, D]."""
        return len(self.positions), self.sidecar.row_shape[-1]

    def __getitem__(self, rows: slice, /) -> NDArray[np.floating]:
        """Read some rows, [m, D]."""
        return self.sidecar.rows(self.positions[rows])[:, _IMAGE]


@dataclass(frozen=True, slots=True)
class _Pictures:
    """Vectors without their mean, made one long.

    Attributes:
        vectors: As they are stored.
        mean: Of all, float32 [D].
    """

    vectors: Vectors
    mean: NDArray[np.float32]

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield rows and their vectors, [m, D]."""
        for rows in _slices(self.vectors.shape[0]):
            centred = self.vectors[rows].astype(np.float32) - self.mean
            norms = np.linalg.norm(centred, axis=1, keepdims=True)
            yield rows, centred / np.maximum(norms, np.finfo(np.float32).tiny)


def clip_tags(vectors: Vectors, named: Csr, size: int, precision: float, stage: Stage) -> Csr:
    """Tag pictures with the concepts they resemble.

    Args:
        vectors: Of the pictures, [n, D].
        named: Concepts of their captions, n rows.
        size: Number of concepts, K.
        precision: Estimated share of the pictures tagged with a concept that should show it.
        stage: For progress.

    Returns:
        Concepts of pictures, n rows.
    """
    number, width = vectors.shape
    total = np.zeros(width)
    for rows in _slices(number):
        total += vectors[rows].sum(axis=0, dtype=np.float64)
    pictures = _Pictures(vectors, (total / number).astype(np.float32))
    says = csr_array((np.ones(len(named.concepts), np.float32), named.concepts, named.pointer), shape=(number, size))
    sums = np.zeros((size, width), dtype=np.float32)
    for rows, block in pictures.blocks():
        sums += says[rows].T @ block
    counts = named.counts(size)
    wide = max(1, min(size, _SCORES // number))
    found: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    columns = says.tocsc()
    with stage.progress("tag pictures", size, "concept") as progress:
        for first in range(0, size, wide):
            some = slice(first, min(first + wide, size))
            marked = columns[:, some].toarray() > 0
            scores = _scores(pictures, sums[some], counts[some], marked)
            hits = hits_above(scores, calibrate(scores, marked, precision))
            found.append((np.repeat(np.arange(number), np.diff(hits.pointer)), hits.concepts.astype(np.int64) + first))
            progress.advance(some.stop - first)
    tagged, tags = zip(*found, strict=True)
    return csr_of(np.concatenate(tagged), np.concatenate(tags), number)


def _scores(
    pictures: _Pictures, sums: NDArray[np.float32], counts: NDArray[np.int64], named: NDArray[np.bool_]
) -> NDArray[np.float16]:
    """Compare pictures with prototypes that they have no share in.

    Args:
        pictures: Vectors z of n pictures.
        sums: Sum S of the vectors that each concept's captions belong to, [K, D].
        counts: How many these are, [K].
        named: Which pictures' captions name which concepts, [n, K].

    Returns:
        float16 [n, K]; -inf where there is no other picture to compare with.
    """
    scores = np.empty(named.shape, dtype=np.float16)
    squares = np.einsum("kd,kd->k", sums, sums)
    others = counts[None] - named > 0  # [n, K]
    for rows, block in pictures.blocks():
        dots = block @ sums.T  # [m, K]
        own = named[rows]
        # without its own vector, z (S - z) = z S - 1 and |S - z|^2 = |S|^2 - 2 z S + 1
        lengths = np.sqrt(np.maximum(squares - own * (2 * dots - 1), np.finfo(np.float32).tiny))
        scores[rows] = np.where(others[rows], np.clip((dots - own) / lengths, -1, 1), -np.inf)
    return scores


def _slices(size: int) -> Iterator[slice]:
    for start in range(0, size, _ROWS):
        yield slice(start, min(start + _ROWS, size))
