"""The order in which samples are seen: one global stream, a function of the seed, sliced by rank.

Epoch e is a permutation of all samples drawn from (seed, e); the stream is the epochs one after another, so no tail is
ever dropped. Step s of a run with global batch G takes stream positions s*G .. s*G+G-1, and rank r of W takes its r-th
share of them. Nothing depends on workers, and resuming at a step costs nothing.

Shards that stream from an object store want a permutation that needs few of them at a time. With a window of w shards,
epoch e permutes the shards by (seed, e), cuts that order into windows of at most w shards, as equal as can be, and
permutes the samples of each window together by (seed, e, window). It does what a shuffle buffer does, but as a function
of the step: w is the one knob between a perfect shuffle and disk space. Every rank reads from the same window, so each
machine downloads every shard once per epoch unless its cache holds them all; in return the order does not depend on the
number of machines.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_KEPT = 2
"""Permutations in memory; a batch rarely spans more."""

KeyT = TypeVar("KeyT")
ValueT = TypeVar("ValueT")


class SampleOrder:
    """Maps (step, rank) to sample positions and epochs."""

    def __init__(
        self,
        num_samples: int,
        global_batch: int,
        seed: int,
        shard_sizes: Sequence[int] | NDArray[np.int64] = (),
        window: int = 0,
    ) -> None:
        """Prepare.

        Args:
            num_samples: Samples of an epoch.
            global_batch: Samples of a step, over all ranks.
            seed: Decides the order.
            shard_sizes: Samples of each shard, in the order of the samples; used with a window only.
            window: Shards that are shuffled together; 0 shuffles everything together.
        """
        assert not window or int(np.sum(shard_sizes)) == num_samples, "the shards must hold all the samples"
        self._num_samples, self._global_batch, self._seed, self._window = num_samples, global_batch, seed, window
        self._shard_begins = np.cumsum([0, *shard_sizes]) if window else np.zeros(1, dtype=np.int64)
        self._permutations: dict[tuple[int, int], NDArray[np.int64]] = {}
        self._layouts: dict[int, tuple[list[NDArray[np.int64]], NDArray[np.int64]]] = {}

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
            of_epoch = np.flatnonzero(epochs == epoch)
            _, begins = self._layout(int(epoch))
            windows = np.searchsorted(begins, offsets[of_epoch], side="right") - 1
            for window in np.unique(windows):
                here = of_epoch[windows == window]
                positions[here] = self._permutation(int(epoch), int(window))[offsets[here] - begins[window]]
        return positions, epochs

    def shards_ahead(self, step: int, last_step: int | None = None) -> tuple[int, ...]:
        """Return the shards worth having on disk when a step begins.

        Args:
            step: Optimiser step, from 0.
            last_step: One past the last step of the run, beyond which nothing is named; None for a run without end.

        Returns:
            Numbers of the shards in the windows that the step's global batch takes from and in the window after them,
            in order of use, each once. Empty without windows, where any step may need any shard.
        """
        if not self._window:
            return ()
        position = step * self._global_batch
        stop = (step + 1 + self._num_samples if last_step is None else last_step) * self._global_batch
        last = min(position + self._global_batch, stop) - 1
        found: list[int] = []
        beyond = 0
        while position <= last or (beyond == 1 and position < stop):
            epoch, offset = divmod(position, self._num_samples)
            members, begins = self._layout(epoch)
            window = int(np.searchsorted(begins, offset, side="right")) - 1
            found.extend(members[window].tolist())
            end = int(begins[window + 1]) if window + 1 < len(begins) else self._num_samples
            position = epoch * self._num_samples + end
            beyond += position > last
        return tuple(dict.fromkeys(found))

    def _layout(self, epoch: int) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
        """Return the windows of an epoch: the shards of each, and where in the epoch each begins, [windows]."""
        if not self._window:
            return [], np.zeros(1, dtype=np.int64)
        if epoch not in self._layouts:
            sizes = np.diff(self._shard_begins)
            members = np.array_split(self._random(epoch, 0).permutation(len(sizes)), -(-len(sizes) // self._window))
            begins = np.cumsum([0, *(sizes[part].sum() for part in members[:-1])])
            _remember(self._layouts, epoch, (members, begins))
        return self._layouts[epoch]

    def _permutation(self, epoch: int, window: int) -> NDArray[np.int64]:
        """Return the samples of a window, shuffled; without windows the epoch is number 0."""
        key = (epoch, window)
        if key not in self._permutations:
            if self._window:
                ranges = [np.arange(*self._shard_begins[shard : shard + 2]) for shard in self._layout(epoch)[0][window]]
                shuffled = self._random(epoch, window + 1).permutation(np.concatenate(ranges))
            else:
                shuffled = self._random(epoch, 0).permutation(self._num_samples)
            _remember(self._permutations, key, shuffled)
        return self._permutations[key]

    def _random(self, epoch: int, stream: int) -> np.random.Generator:
        """Return a generator of an epoch; its streams are 2**192 draws apart."""
        return np.random.Generator(np.random.Philox(key=[self._seed, epoch], counter=[0, 0, 0, stream]))


def _remember(known: dict[KeyT, ValueT], key: KeyT, value: ValueT) -> None:
    """Add an entry, and drop the oldest beyond ``_KEPT``."""
    while len(known) >= _KEPT:
        del known[next(iter(known))]
    known[key] = value
