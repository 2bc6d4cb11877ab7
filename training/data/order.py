"""The order in which samples are seen: one global stream, a function of the seed, sliced by rank.

Epoch e is a permutation of all samples drawn from (seed, e); the stream is the epochs one after another, so no tail is
ever dropped. Step s of a run with global batch G takes stream positions s*G .. s*G+G-1, and rank r of W takes its r-th
share of them. Nothing depends on workers, and resuming at a step costs nothing.
"""

import numpy as np
from numpy.typing import NDArray


class SampleOrder:
    """Maps (step, rank) to sample positions and epochs."""

    def __init__(self, num_samples: int, global_batch: int, seed: int) -> None:
        self._num_samples, self._global_batch, self._seed = num_samples, global_batch, seed
        self._cached: dict[int, NDArray[np.int64]] = {}

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._cached:
            for old in [known for known in self._cached if known < epoch - 1]:
                del self._cached[old]
            random = np.random.Generator(np.random.Philox(key=[self._seed, epoch]))
            self._cached[epoch] = random.permutation(self._num_samples)
        return self._cached[epoch]

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return what one rank sees in one step.

        Args:
            step: Optimiser step, from 0.
            rank: This process.
            world_size: Number of processes; divides the global batch.

        Returns:
            Sample positions and their epochs, both [B] with B = global batch / world size.
        """
        share = self._global_batch // world_size
        stream = step * self._global_batch + rank * share + np.arange(share)
        epochs, offsets = np.divmod(stream, self._num_samples)
        positions = np.empty(share, dtype=np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            positions[here] = self._permutation(int(epoch))[offsets[here]]
        return positions, epochs
