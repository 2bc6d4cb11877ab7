"""Texts to search and classify with, as unit vectors in the space of the frozen language model."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from assets.errors import ConfigError, message
from assets.language.facet_encoder import FacetEncoder

QueryMode = Literal["single", "multi"]
MultiMean = Literal["raw", "unit"]


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale vectors [..., W] to unit norm; the zero vector stays zero."""
    norms: NDArray[np.float32] = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)


def encode_queries(
    encoder: FacetEncoder,
    texts: Sequence[str],
    mode: QueryMode,
    multi_mean: MultiMean = "unit",
    slot_means: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Encode texts for evaluation.

    Args:
        encoder: The one that made the rows of training.
        texts: Class prompts or captions.
        mode: ``single`` is the first facet in the short wrapper; ``multi`` the mean of all facets in the long one.
        multi_mean: Whether ``multi`` averages the vectors as they come, or each at unit norm as training sees them.
        slot_means: Mean unit row of each facet that is used, taken away before the average, where training rows were
            centred, [1, W] or [F, W].

    Returns:
        Unit vectors, [B, W].

    Raises:
        ConfigError: The means are of another shape, or are to be taken from raw vectors.
    """
    facets = encoder.prompts.names[:1] if mode == "single" else encoder.prompts.names
    if slot_means is not None:
        if mode == "multi" and multi_mean == "raw":
            raise ConfigError(
                message("multi_mean of centred queries", multi_mean, "unit, since the means are of unit rows")
            )
        if slot_means.shape != (len(facets), encoder.width):
            raise ConfigError(message("shape of slot_means", slot_means.shape, (len(facets), encoder.width)))
    rows = encoder.encode(texts, "short" if mode == "single" else "long", facets)  # [B, F, W]
    if slot_means is not None:
        rows = unit(unit(rows) - slot_means)
    elif multi_mean == "unit":
        rows = unit(rows)
    return unit(rows.mean(axis=1))
