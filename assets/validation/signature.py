"""The signature of a picture: 18 x 18 pixels in colour, by which near-duplicates are told."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIGNATURE_SIDE = 18
SIGNATURE_BYTES = 3 * SIGNATURE_SIDE**2
SMALLEST_DECODED = 4 * SIGNATURE_SIDE
"""Shorter side in pixels, below which a picture should not be shrunk before its signature is taken."""


def signature(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture at 18 x 18 pixels.

    Smoothed by a triangle two cells wide rather than averaged cell by cell, so that a move by part of a cell changes
    it as the derivatives say (``assets.validation.resemblance``).

    Args:
        pixels: Colours [height, width, 3] uint8.

    Returns:
        uint8 [18 * 18 * 3], row by row.
    """
    side = (SIGNATURE_SIDE, SIGNATURE_SIDE)
    return np.asarray(Image.fromarray(pixels).resize(side, Image.Resampling.BILINEAR)).reshape(-1)
