"""From word vectors to sparse ones: keep the words above average, or the largest, and round what is kept.

Vectors are non-negative and of unit norm, so 1/sqrt(V) is the root mean square of an entry and "above average" means
strictly more than that (LexVLA: Li et al., arXiv 2407.17827). Nothing is normalised again after the cut. Weights are
then rounded to multiples of 2**-20: products of two of them are multiples of 2**-40, of which float64 sums up to 8,192
exactly, so that an index and a dense product give the same numbers in whatever order they add.
"""

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from assets.errors import DataError, message
from assets.section import Section

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

STEP = 2.0**-20
"""What weights are multiples of."""


class CutConfig(Section):
    """Which words of a vector are kept; the section ``indexes.NAME.cut``."""

    above: Literal["average"] | Annotated[float, Field(ge=0.0, lt=1.0)] = "average"
    """Keep entries strictly above this; average is 1/sqrt(V), the root mean square of a unit vector of V words."""
    at_most: int | None = Field(default=None, ge=1)
    """Keep at most so many of them, the largest; of equal ones those with the lower number. null keeps all."""

    def threshold(self, num_words: int) -> float:
        """Return what entries of a vector of so many words must exceed."""
        return 1 / math.sqrt(num_words) if isinstance(self.above, str) else self.above


def cut(vectors: npt.NDArray[np.floating], config: CutConfig) -> "csr_matrix":
    """Keep the words of vectors that a cut asks for.

    Args:
        vectors: Non-negative, [n, V].
        config: The cut.

    Returns:
        The kept entries as they are, not normalised again, [n, V], of the type of ``vectors``.

    Raises:
        DataError: An entry is negative or not finite.
    """
    from scipy.sparse import csr_matrix

    # a comparison that is false for nan, too
    if not (np.isfinite(vectors).all() and (vectors >= 0).all()):
        fix = "index a model whose vectors are over words"
        raise DataError(message("a word vector has entries that are negative or not finite", fix=fix))
    kept = vectors > config.threshold(vectors.shape[1])  # [n, V]
    if config.at_most is not None and config.at_most < vectors.shape[1]:
        order = np.argsort(np.where(kept, -vectors, np.inf), axis=1, kind="stable")[:, : config.at_most]
        largest = np.zeros_like(kept)
        np.put_along_axis(largest, order, True, axis=1)
        kept &= largest
    return csr_matrix(np.where(kept, vectors, 0))


def renormalise(matrix: "csr_matrix") -> "csr_matrix":
    """Bring rows to unit norm, which changes rankings when rows of the gallery are; empty rows stay empty.

    Args:
        matrix: Cut vectors, [n, V].
    """
    found: Any = matrix.copy()
    norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())  # [n]
    found.data = found.data / np.repeat(norms, np.diff(found.indptr))
    return found


def fixed_point(matrix: "csr_matrix") -> "csr_matrix":
    """Round weights to multiples of 2**-20; what was kept stays, with one step at least.

    Args:
        matrix: Cut vectors, [n, V].

    Returns:
        float32, which holds such multiples up to 16 exactly, [n, V].
    """
    given: Any = matrix
    found: Any = given.astype(np.float32)
    found.data = rounded(given.data)
    return found


def rounded(weights: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Round positive weights to multiples of 2**-20, one of them at least."""
    steps = np.maximum(np.rint(weights.astype(np.float64) / STEP), 1.0)
    return (steps * STEP).astype(np.float32)
