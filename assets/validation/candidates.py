"""Which pictures may resemble each other: traits of a few bytes, and tables that put rows with equal traits together.

A small move, another size, another compression or another brightness leaves the distribution of a picture's colours
and its coarse layout nearly as they were. So each row has two kinds of traits: moments of its colours, blind to place,
and the signs of its lowest frequencies. A table sorts all rows by a few of them, another few in each table, and rows
with equal keys are candidates; what they have in common by chance, ``assets.validation.resemblance`` finds out.
But for small sets, nothing is compared with everything: work and memory grow as the number of rows.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from assets.index import SIGNATURE_SIDE

NUM_MOMENTS, NUM_SIGNS = 11, 42
TABLES = 24
_ROWS_AT_ONCE = 1 << 9
_HIGHEST_FREQUENCY = 4
_CELLS = SIGNATURE_SIDE // 2 - 1
_WAVE_HEIGHT = 64
_BINS, _BIN_BITS = 8, 4  # an offset grid of 8 steps has 9 cells
_MOMENTS_PER_KEY = 4
_FEWEST_SIGNS = 4
_ROWS_OF_FEWEST_SIGNS = 1 << 14
_SAMPLE_ROWS = 1 << 16
_FEW_ROWS = 512  # grids of eight cells would part the rows of a small set at random
MAX_SIGNS_APART = 14
"""Signs, of 42, by which candidates may differ; of 817 planted pairs 4 differ by more."""
MAX_MEANS_APART = 0.05
"""Share of the brightness by which the mean red-blue and green-purple of candidates may differ."""
NEIGHBOURS = 16
"""Rows of equal key that one row is compared with, beside the first of them, in each table."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What the search knows of every row, 52 bytes each.

    Attributes:
        moments: Of the colours, independent of brightness, float32 [rows, 11].
        signs: One bit per low frequency and channel, uint64 [rows].
    """

    moments: NDArray[np.float32]
    signs: NDArray[np.uint64]

    def take(self, rows: NDArray[np.int64]) -> "Traits":
        """Return the traits of some rows, in the order given."""
        return Traits(self.moments[rows], self.signs[rows])


def traits_of(signatures: NDArray[np.uint8]) -> Traits:
    """Measure signatures.

    Args:
        signatures: uint8 [rows, 18 * 18 * 3].
    """
    moments = np.empty((len(signatures), NUM_MOMENTS), dtype=np.float32)
    signs = np.empty(len(signatures), dtype=np.uint64)
    for start in range(0, len(signatures), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        pixels = signatures[part].reshape(-1, SIGNATURE_SIDE, SIGNATURE_SIDE, 3).astype(np.uint16)
        # smoothed by 1 2 1 and every other one kept: as telling, and three times as fast
        rows = pixels[:, 0:-2:2] + 2 * pixels[:, 1:-1:2] + pixels[:, 2::2]
        cells = (rows[:, :, 0:-2:2] + 2 * rows[:, :, 1:-1:2] + rows[:, :, 2::2]).reshape(len(rows), -1, 3)
        # whole numbers: all sums below are exact, in whatever order a machine adds them up
        red, green, blue = (cells[:, :, channel].astype(np.float64) for channel in range(3))
        channels = [red + green + blue, red - blue, 2 * green - red - blue]
        moments[part], signs[part] = _moments(channels), _signs(channels)
    return Traits(moments, signs)


def join(parts: list[Traits]) -> Traits:
    """Put the traits of consecutive rows together."""
    if not parts:
        return traits_of(np.empty((0, 3 * SIGNATURE_SIDE**2), np.uint8))
    return Traits(np.concatenate([part.moments for part in parts]), np.concatenate([part.signs for part in parts]))


def _moments(channels: list[NDArray[np.float64]]) -> NDArray[np.float32]:
    """Return means, covariances and third moments of the colours, over powers of the brightness."""
    num_pixels = _CELLS**2
    squares = [channel * channel for channel in channels]
    means = [channel.mean(axis=1) for channel in channels]
    light = np.maximum(means[0], 1.0)
    columns = [mean / light for mean in means[1:]]
    for first, second in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)):
        product = np.einsum("np,np->n", channels[first], channels[second]) / num_pixels
        columns.append((product - means[first] * means[second]) / light**2)
    for channel, square, mean in zip(channels, squares, means, strict=True):
        cube = np.einsum("np,np->n", channel, square) / num_pixels
        columns.append((cube - 3 * mean * square.mean(axis=1) + 2 * mean**3) / light**3)
    return np.stack(columns, axis=1).astype(np.float32)


def _signs(channels: list[NDArray[np.float64]]) -> NDArray[np.uint64]:
    """Return the signs of the lowest frequencies, 14 of each channel, one bit each."""
    place = (np.arange(_CELLS) + 0.5) / _CELLS
    waves = np.rint(_WAVE_HEIGHT * np.cos(np.pi * place[:, None] * np.arange(_HIGHEST_FREQUENCY + 1)))  # [8, 5]
    planes = np.concatenate(channels).reshape(-1, _CELLS)
    across = (planes @ waves).reshape(-1, _CELLS, waves.shape[1])
    spectrum = (waves.T @ across).reshape(len(channels), -1, waves.shape[1] ** 2)
    down, right = np.divmod(np.arange(waves.shape[1] ** 2), waves.shape[1])
    lowest = np.flatnonzero((down + right > 0) & (down + right <= _HIGHEST_FREQUENCY))
    positive = np.concatenate(spectrum[:, :, lowest] > 0, axis=1)
    padded = np.zeros((len(positive), 64), dtype=bool)
    padded[:, :NUM_SIGNS] = positive
    return np.packbits(padded, axis=1, bitorder="little").view("<u8")[:, 0].astype(np.uint64)


def num_signs_per_key(num_rows: int) -> int:
    """Return how many signs a key holds: one more whenever the rows double, so that chance meetings grow no faster."""
    return _FEWEST_SIGNS + max(0, (num_rows // _ROWS_OF_FEWEST_SIGNS).bit_length() - 1)


def keys(traits: Traits, table: int, num_signs: int) -> NDArray[np.uint64]:
    """Return each row's key in one table, uint64 [rows].

    Args:
        traits: Of all rows; the grid of each moment follows their distribution.
        table: Number of the table, which chooses traits and grids.
        num_signs: Signs in a key.
    """
    rng = np.random.default_rng([table])
    sample = traits.moments[:: max(1, len(traits.moments) // _SAMPLE_ROWS)]
    key = np.zeros(len(traits.signs), dtype=np.uint64)
    for column in rng.choice(NUM_MOMENTS, _MOMENTS_PER_KEY, replace=False).tolist():
        # a grid of its own in every table: a pair on the edge of one cell is inside another
        shares = (np.arange(_BINS) + rng.random()) / _BINS
        ordered = np.sort(sample[:, column])
        edges = ordered[(shares * len(ordered)).astype(np.int64)]
        cell = np.searchsorted(edges, traits.moments[:, column], side="right")
        key = (key << np.uint64(_BIN_BITS)) | cell.astype(np.uint64)
    for bit in rng.choice(NUM_SIGNS, num_signs, replace=False).tolist():
        key = (key << np.uint64(1)) | ((traits.signs >> np.uint64(bit)) & np.uint64(1))
    return key


def _neighbours(key: NDArray[np.uint64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield (first, second) of equal key, first < second: each row with its next ones and with the first of its key."""
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=~ordered[:1]) != 0)
    leaders = np.repeat(starts, np.diff(np.append(starts, len(order))))
    far = np.flatnonzero(np.arange(len(order)) - leaders > NEIGHBOURS)
    yield order[leaders[far]], order[far]
    active = np.arange(len(order))
    for step in range(1, NEIGHBOURS + 1):
        active = active[active < len(order) - step]
        active = active[ordered[active] == ordered[active + step]]
        if not len(active):
            return
        yield order[active], order[active + step]


def candidate_pairs(traits: Traits, num_fixed: int, others: bool) -> NDArray[np.int64]:
    """Find the pairs worth a closer look.

    Args:
        traits: Of all rows that take part.
        num_fixed: So many of the first rows are not compared with each other.
        others: Whether the rest are compared with each other.

    Returns:
        Pairs (first, second), first < second, in ascending order of second and then first, int64 [pairs, 2].
    """
    num_rows = len(traits.signs)
    found = np.empty(0, dtype=np.int64)
    for meetings in _meetings(traits):
        fresh = [found]
        for first, second in meetings:
            wanted = second >= num_fixed
            if not others:
                wanted &= first < num_fixed
            wanted &= np.bitwise_count(traits.signs[first] ^ traits.signs[second]) <= MAX_SIGNS_APART
            first, second = first[wanted], second[wanted]
            alike = (np.abs(traits.moments[first, :2] - traits.moments[second, :2]) <= MAX_MEANS_APART).all(axis=1)
            fresh.append(second[alike] * num_rows + first[alike])
        found = np.unique(np.concatenate(fresh))
    return np.stack([found % max(num_rows, 1), found // max(num_rows, 1)], axis=1)


def _meetings(traits: Traits) -> Iterator[Iterable[tuple[NDArray[np.int64], NDArray[np.int64]]]]:
    """Yield, table by table, the rows (first, second) that meet there; all of them at once when they are few."""
    num_rows = len(traits.signs)
    if num_rows <= _FEW_ROWS:
        second, first = np.tril_indices(num_rows, -1)
        yield [(first, second)]
        return
    for table in range(TABLES):
        yield _neighbours(keys(traits, table, num_signs_per_key(num_rows)))
