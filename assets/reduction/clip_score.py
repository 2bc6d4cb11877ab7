"""Keep the pairs whose image and caption agree most, by the score of a model that saw them.

The baseline of DataComp (arXiv 2304.14108), with an exact size: ties at the threshold are settled by the hash order.
:func:`datacomp` follows the published code, which keeps one more than asked for, and more with ties.
"""

import numpy as np
from numpy.typing import NDArray

from assets.errors import ConfigError, message
from assets.reduction.selection import Scores, best, check_scores


def top(scores: Scores, ranks: NDArray[np.int64], budget: int) -> NDArray[np.bool_]:
    """Keep the rows with the highest scores.

    Args:
        scores: float [n].
        ranks: Places in the hash order, which settle ties, int64 [n].
        budget: How many.

    Returns:
        bool [n], of which exactly ``budget`` are true.

    Raises:
        ConfigError: There are fewer rows.
        DataError: A score is missing.
    """
    return best(scores, ranks, budget)


def datacomp_threshold(scores: Scores, fraction: float) -> float:
    """Return the score that the published code keeps rows from on: the int(n f)-th highest, counted from 0.

    Args:
        scores: float [n].
        fraction: f, from 0 to below 1; multiplied as a float there, so here.

    Returns:
        The threshold.

    Raises:
        ConfigError: There is no such score.
        DataError: A score is missing.
    """
    check_scores(scores)
    place = int(len(scores) * fraction)
    if not 0 <= place < len(scores):
        what = f"no score stands at place {place} of {len(scores)}, which the published rule asks for"
        raise ConfigError(message(what, fraction, "from 0 to below 1", "keep all, or use the rule with an exact size"))
    return float(np.sort(scores)[len(scores) - 1 - place])


def datacomp(scores: Scores, fraction: float) -> NDArray[np.bool_]:
    """Keep what the published code keeps: all rows from the threshold on.

    Args:
        scores: float [n].
        fraction: See :func:`datacomp_threshold`.

    Returns:
        bool [n].
    """
    return scores >= datacomp_threshold(scores, fraction)
