"""Random views of an image whose draws depend on (seed, epoch, key) only, never on order or worker."""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.config import ViewsConfig


@dataclass(frozen=True, slots=True)
class CropDraw:
    """The parameters of one random view, enough to apply it again.

    Attributes:
        left: Left edge of the crop in source pixels.
        top: Top edge in source pixels.
        width: Width in source pixels.
        height: Height in source pixels.
        flip: Whether the view is mirrored.
    """

    left: float
    top: float
    width: float
    height: float
    flip: bool


def sample_generator(seed: int, epoch: int, key: str) -> np.random.Generator:
    """Return the generator that makes every random draw for one sample in one epoch."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{key}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def draw_crop(views: ViewsConfig, width: int, height: int, random: np.random.Generator) -> CropDraw:
    """Draw a crop with area and aspect from the config's ranges, shrunk where it would leave the image.

    Args:
        views: The ranges.
        width: Source width in pixels.
        height: Source height in pixels.
        random: The sample's generator; four numbers are taken.

    Returns:
        The crop, inside the source.
    """
    area_draw, aspect_draw, x_draw, y_draw, flip_draw = random.random(5)
    low, high = views.crop_area
    area = width * height * (low + (high - low) * area_draw)
    low, high = (math.log(value) for value in views.crop_aspect)
    aspect = math.exp(low + (high - low) * aspect_draw)
    crop_width = min(math.sqrt(area * aspect), width)
    crop_height = min(math.sqrt(area / aspect), height)
    if views.crop_area == (1.0, 1.0):
        crop_width, crop_height = width, height
    return CropDraw(
        left=x_draw * (width - crop_width),
        top=y_draw * (height - crop_height),
        width=crop_width,
        height=crop_height,
        flip=bool(flip_draw < views.flip),
    )


def apply_crop(pixels: NDArray[np.uint8], crop: CropDraw, size: int) -> NDArray[np.uint8]:
    """Cut and resize (bicubic) one view.

    Args:
        pixels: Source image, [height, width, 3].
        crop: What was drawn, in source pixels.
        size: Side of the square result.

    Returns:
        The view, [size, size, 3].
    """
    box = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
    view = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC, box=box))
    return view[:, ::-1] if crop.flip else view
