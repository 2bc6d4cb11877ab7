"""Traits of a picture: 52 bytes that stay nearly as they are when it is moved, resized or made lighter by a little.

Two kinds: moments of its colours, blind to place, and the signs of its lowest frequencies. They are measured on its
signature, and ``assets.validation.candidates`` searches by them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from assets.validation.signature import SIGNATURE_SIDE

NUM_MOMENTS, NUM_SIGNS = 11, 42
_ROWS_AT_ONCE = 1 << 9
_HIGHEST_FREQUENCY = 4
_CELLS = SIGNATURE_SIDE // 2 - 1
_WAVE_HEIGHT = 64


@dataclass(frozen=True, slots=True)
class Traits:
    """What the search knows of every row, 52 bytes each.

    Attributes:
        moments: Of the colours, independent of brightness, float32 [rows, 11].
        signs: One bit per low frequency and channel, uint64 [rows].
    """

    moments: NDArray[np.float32]
    signs: NDArray[np.uint64]


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
