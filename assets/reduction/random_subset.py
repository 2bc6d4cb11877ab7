"""A random subset of exact size: the first pairs of the hash order. Larger subsets with the same seed contain it."""

import numpy as np
from numpy.typing import NDArray

from assets.reduction.selection import best


def keep(ranks: NDArray[np.int64], budget: int) -> NDArray[np.bool_]:
    """Keep the first rows of the hash order.

    Args:
        ranks: Places in it, int64 [n].
        budget: How many.

    Returns:
        bool [n], of which exactly ``budget`` are true.

    Raises:
        ConfigError: There are fewer rows.
    """
    return best(None, ranks, budget)
