"""Pixels of a scene."""

import numpy as np
import simplejpeg

from assets.sources.emoji_scenes import backgrounds, sprites
from assets.sources.emoji_scenes.concepts import Concept
from assets.sources.emoji_scenes.scene import MARGIN, Scene


def render(
    scene: Scene, concepts: tuple[Concept, ...], side: int, shift: tuple[int, int] = (0, 0), brightness: float = 1.0
) -> np.ndarray:
    """Paint a scene.

    Args:
        scene: What to paint, its boxes already moved by ``shift``.
        concepts: In rank order.
        side: Width and height in pixels.
        shift: How far the background moves, within ``MARGIN``, (dx, dy).
        brightness: Factor on all channels.

    Returns:
        The picture, [side, side, 3] uint8.
    """
    left, top = MARGIN - shift[0], MARGIN - shift[1]
    wide = backgrounds.paint(scene.background, side + 2 * MARGIN)
    canvas = np.ascontiguousarray(wide[top : top + side, left : left + side])
    for placed in scene.objects:
        stamp = sprites.stamp(concepts[placed.rank].concept_id, scene.style, placed.side)
        box = placed.box
        region = canvas[box.y0 : box.y1, box.x0 : box.x1]
        region[...] = stamp.ink + (region * stamp.clear >> 8)
    if brightness != 1.0:
        table = np.clip(np.rint(np.arange(256) * brightness), 0, 255).astype(np.uint8)
        canvas = table[canvas]
    return canvas


def encode(picture: np.ndarray, quality: int) -> bytes:
    """Return a picture as JPEG with full colour resolution.

    Args:
        picture: [H, W, 3] uint8, C-contiguous.
        quality: 1 to 100.
    """
    return simplejpeg.encode_jpeg(picture, quality=quality, colorspace="RGB", colorsubsampling="444")
