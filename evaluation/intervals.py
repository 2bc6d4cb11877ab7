"""95 % intervals: bootstrap over units for one model, Student t over seeds for one recipe.

Every metric here is a mean over units (images, queries or classes), so one resampling serves them all. The bootstrap
interval says how much the score would move had other units been drawn; it is blind to the luck of training, which is
what the interval over seeds measures. With a score of exactly 0 or 1 all units agree and the bootstrap interval has no
width: read it as "fewer than about 3 in n" (the rule of three), not as certainty.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_LEVELS = (2.5, 97.5)
_DRAWS_AT_ONCE = 1 << 22
# 97.5 % quantiles of Student's t for 1..30 degrees of freedom; beyond, the normal value is within 2 %
_T_QUANTILES = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
_NORMAL_QUANTILE = 1.960


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Percentile bootstrap of means.

    Attributes:
        resamples: How many times the units are drawn anew, with replacement.
        seed: Seed of the draws; the same seed and number of units give the same draws for every model, so that
            differences between models are not blurred by different draws.
    """

    resamples: int
    seed: int

    def means(self, scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the 95 % interval of the mean of each column.

        Args:
            scores: Score of every unit under every metric, [units, metrics]. Rows are drawn together.

        Returns:
            Low and high ends, [metrics, 2].
        """
        units = len(scores)
        rng = np.random.default_rng([self.seed, units])
        means: list[npt.NDArray[np.float64]] = []
        left = self.resamples
        while left:
            draws = min(left, max(1, _DRAWS_AT_ONCE // units))
            counts = rng.multinomial(units, np.full(units, 1 / units), size=draws)  # [draws, units]
            means.append(counts @ scores / units)
            left -= draws
        return np.percentile(np.concatenate(means), _LEVELS, axis=0).T


def seed_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Summarise the scores of several seeds of one recipe.

    Args:
        values: One score per seed, at least two.

    Returns:
        Mean, and low and high end of the 95 % t interval of the mean (assumes roughly normal scores over seeds).
    """
    array = np.asarray(values, dtype=np.float64)
    if len(array) < 2:
        raise ValueError(f"an interval over seeds needs at least 2 scores, got {len(array)}")
    degrees = len(array) - 1
    quantile = _T_QUANTILES[degrees - 1] if degrees <= len(_T_QUANTILES) else _NORMAL_QUANTILE
    mean = float(array.mean())
    half = quantile * float(array.std(ddof=1)) / float(np.sqrt(len(array)))
    return mean, mean - half, mean + half
