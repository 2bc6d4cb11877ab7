"""95 % intervals of scores that are no plain mean over pictures: ratios of sums, means over classes.

Pictures are drawn anew with replacement, as ``intervals.py`` draws its units; each draw sums what the pictures
contribute, and the score is taken of the sums.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluation.base import Interval
from evaluation.intervals import Bootstrap

_LEVELS = (2.5, 97.5)


def score_interval(
    parts: npt.NDArray[Any], score: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]], bootstrap: Bootstrap
) -> Interval:
    """Return the interval of a score that is a function of sums over pictures.

    Args:
        parts: What each picture adds, [I, ...].
        score: Takes sums [draws, ...] to scores [draws]; nan where a draw has nothing to score.
        bootstrap: Number of draws, and their seed.

    Returns:
        Low and high end; both nan where no draw can be scored.
    """
    units = len(parts)
    rng = np.random.default_rng([bootstrap.seed, units])
    counts = rng.multinomial(units, np.full(units, 1 / units), size=bootstrap.resamples)  # [draws, I]
    sums = counts.astype(np.float64) @ parts.reshape(units, -1).astype(np.float64)
    scores = score(sums.reshape(len(counts), *parts.shape[1:]))
    scores = scores[~np.isnan(scores)]
    if not len(scores):
        return float("nan"), float("nan")
    low, high = np.percentile(scores, _LEVELS)
    # a mean over classes is not linear in the pictures: its draws need not lie around it
    value = float(score(parts.sum(axis=0, dtype=np.float64)[None])[0])
    return min(float(low), value), max(float(high), value)


def ratio(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Divide the first sum by the second, [draws, 2] -> [draws]; nan where the second is 0."""
    return np.where(sums[:, 1] > 0, sums[:, 0] / np.where(sums[:, 1] > 0, sums[:, 1], 1), np.nan)
