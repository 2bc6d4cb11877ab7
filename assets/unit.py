"""Vectors at unit norm."""

import numpy as np
from numpy.typing import NDArray


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale vectors [..., W] to unit norm; the zero vector stays zero."""
    norms: NDArray[np.float32] = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)
