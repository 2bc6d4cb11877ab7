"""Backgrounds: twelve colours by six textures, cut out of patterns that are made once per process."""

from functools import cache
from random import Random
from typing import NamedTuple

import numpy as np

from assets.sources.emoji_scenes.colours import COLOURS, second_tone

TEXTURES = ("plain", "striped", "checkered", "dotted", "shaded", "grainy")
_LEVELS = 16
_VARIANTS = 4
_JITTER = 6


class Background(NamedTuple):
    """What lies behind the sprites.

    Attributes:
        colour: One of the twelve names.
        texture: One of ``TEXTURES``.
        variant: Which of the texture's patterns: direction and scale.
        offset: Where in the pattern the cut begins, as a share of its spare room, (x, y).
        jitter: Added to the three channels of the colour.
    """

    colour: str
    texture: str
    variant: int
    offset: tuple[float, float]
    jitter: tuple[int, int, int]


def draw(rng: Random, colour: str) -> Background:
    """Draw everything about a background but its colour."""
    texture = TEXTURES[int(rng.random() * len(TEXTURES))]
    variant = int(rng.random() * _VARIANTS)
    offset = (rng.random(), rng.random())
    jitter = tuple(round((2 * rng.random() - 1) * _JITTER) for _ in range(3))
    return Background(colour, texture, variant, offset, jitter)  # pyright: ignore[reportArgumentType]


@cache
def _pattern(texture: str, variant: int, side: int) -> np.ndarray:
    """Return a square of tone levels 0..15, 1.5 times as wide as the picture so that cuts differ."""
    full = side * 3 // 2
    y, x = np.mgrid[0:full, 0:full].astype(np.float64) / side
    level = _LEVELS - 1
    if texture == "plain":
        tone = np.zeros_like(x)
    elif texture == "striped":
        across = (x, y, (x + y) * np.sqrt(0.5), (x - y) * np.sqrt(0.5))[variant]
        tone = (np.floor(across * 8) % 2) * level
    elif texture == "checkered":
        cells = (4, 5, 6, 8)[variant]
        tone = ((np.floor(x * cells) + np.floor(y * cells)) % 2) * level
    elif texture == "dotted":
        cells = (4, 5, 6, 7)[variant]
        inside = np.hypot((x * cells) % 1 - 0.5, (y * cells) % 1 - 0.5) < 0.3
        tone = inside * float(level)
    elif texture == "shaded":
        along = (x, y, full / side - x, full / side - y)[variant] / (full / side)
        tone = along * 1.5 * level
    else:
        tone = np.random.default_rng(variant).triangular(0, level / 3, level, x.shape)
    return np.clip(np.rint(tone), 0, level).astype(np.uint8)


def _ramp(colour: str) -> np.ndarray:
    base = np.array(COLOURS[colour], dtype=np.float32)
    other = np.array(second_tone(COLOURS[colour]), dtype=np.float32)
    share = np.linspace(0, 1, _LEVELS, dtype=np.float32)[:, None]
    return np.rint(base + share * (other - base)).astype(np.int16)


_RAMPS = {colour: _ramp(colour) for colour in COLOURS}  # tone level -> colour, [16, 3] each


def paint(background: Background, side: int) -> np.ndarray:
    """Return the picture of a background, [side, side, 3] uint8.

    Args:
        background: What to paint.
        side: Width and height in pixels.
    """
    pattern = _pattern(background.texture, background.variant, side)
    spare = pattern.shape[0] - side
    left, top = (int(share * spare) for share in background.offset)
    tones = np.clip(_RAMPS[background.colour] + np.array(background.jitter, dtype=np.int16), 0, 255).astype(np.uint8)
    return tones.take(pattern[top : top + side, left : left + side], axis=0)
