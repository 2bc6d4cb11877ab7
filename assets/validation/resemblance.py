"""How far two pictures are from showing the same, judged by their signatures of 18 x 18 pixels.

Distance: the share of the later picture's variance that the earlier one does not explain once it is moved, resized
and made lighter or darker by a little. Such a change alters a smooth picture a as its Taylor series says, by a sum of
a's derivatives, so the best of all small changes is one least-squares fit

    b = gain * a + x * a_x + y * a_y + zoom * (place . gradient a) + (a_xx, a_yy, a_xy terms)

over all pixels and channels together, and no shift need be tried. 0 is equal; unrelated pictures are near 1. A gain
common to all channels and no offset: another ground of the same drawing is another picture.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from assets.validation.signature import SIGNATURE_SIDE

_Float = TypeVar("_Float", np.float32, np.float64)
_PAIRS_AT_ONCE = 1 << 8
_DECIMALS = 6  # what rounding in the small solves could differ in between machines is cut off
_RIDGE, _LEAST_RIDGE = 1e-9, 1e-3  # derivatives of a flat picture are all 0
_TOO_FAR = 0.7


def _changes(signatures: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what small changes add to pictures, whole numbers, [pairs, 7, values], the outermost pixels cut off."""
    inner = slice(1, -1)
    left, right = signatures[:, inner, :-2], signatures[:, inner, 2:]
    upper, lower = signatures[:, :-2, inner], signatures[:, 2:, inner]
    middle = signatures[:, inner, inner]
    across, down = right - left, lower - upper
    place = (2 * np.arange(SIGNATURE_SIDE) - (SIGNATURE_SIDE - 1.0))[inner]
    corners = signatures[:, 2:, 2:] - signatures[:, 2:, :-2] - signatures[:, :-2, 2:] + signatures[:, :-2, :-2]
    changes = [
        middle,
        across,
        down,
        across * place[:, None] + down * place[:, None, None],
        left + right - 2 * middle,
        upper + lower - 2 * middle,
        corners,
    ]
    return np.stack(changes, axis=1).reshape(len(signatures), len(changes), -1)


def distances(
    signatures: NDArray[np.uint8], first: NDArray[np.int64], second: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return how far the second picture of each pair is from a slightly changed first one.

    Args:
        signatures: uint8 [rows, 18 * 18 * 3].
        first: Places in them, int64 [pairs].
        second: Likewise.

    Returns:
        Distances from 0 up, float64 [pairs]. Those that look unlike as they lie, beyond ``_TOO_FAR``, are not aligned:
        no small change makes them near, and nine in ten candidates are such.
    """
    parts = [np.empty(0)]
    for start in range(0, len(first), _PAIRS_AT_ONCE):
        pairs = slice(start, start + _PAIRS_AT_ONCE)
        here, there = signatures[first[pairs]], signatures[second[pairs]]
        part = _as_they_lie(here.astype(np.float32), there.astype(np.float32)).astype(np.float64)
        promising = np.flatnonzero(part <= _TOO_FAR)
        if len(promising):
            part[promising] = _aligned(here[promising], there[promising])
        parts.append(np.round(part, _DECIMALS))
    return np.concatenate(parts)


def _as_they_lie(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the distances under a change of brightness alone, [pairs]; roughly, as they only sort pairs out."""
    squares, shared = np.einsum("pv,pv->p", first, first), np.einsum("pv,pv->p", first, second)
    total = np.einsum("pv,pv->p", second, second)
    return np.maximum(total - shared * (shared / np.maximum(squares, 1)), 0) / _spread(second, total)


def _spread(signatures: NDArray[_Float], total: NDArray[_Float]) -> NDArray[_Float]:
    """Return the sum of the squared differences from each channel's mean, at least 1, [pairs].

    Args:
        signatures: [pairs, values].
        total: Sum of their squares, [pairs].
    """
    num_pixels = signatures.shape[1] // 3
    sums = np.stack([signatures[:, channel::3].sum(axis=1) for channel in range(3)], axis=1)  # [pairs, 3]
    return np.maximum(total - np.square(sums).sum(axis=1) / num_pixels, 1)


def _aligned(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the distances after the best small change, [pairs]."""
    shape = (len(first), SIGNATURE_SIDE, SIGNATURE_SIDE, 3)
    changes = _changes(first.reshape(shape).astype(np.float64))
    wanted = second.reshape(shape)[:, 1:-1, 1:-1].astype(np.float64)
    target = wanted.reshape(len(first), -1, 1)
    # sums of whole numbers below 2^53 are exact, so they do not depend on the order that a BLAS sums in
    products = changes @ changes.transpose(0, 2, 1)
    shared = (changes @ target)[:, :, 0]
    diagonal = np.arange(products.shape[1])
    ridge = products.copy()
    ridge[:, diagonal, diagonal] += _LEAST_RIDGE + _RIDGE * products[:, diagonal, diagonal]
    explained = (np.linalg.solve(ridge, shared[:, :, None])[:, :, 0] * shared).sum(axis=1)
    total = np.square(target[:, :, 0]).sum(axis=1)
    return np.maximum(total - explained, 0.0) / _spread(target[:, :, 0], total)
