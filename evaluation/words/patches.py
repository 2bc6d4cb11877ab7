"""Where in a picture a model sees a word: how strongly each patch says it, and which one says it most."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

_QUALITY = 85
_TINT = (255, 96, 0)
_OPAQUE = 170
"""Alpha of the strongest patch."""


@dataclass(frozen=True, slots=True)
class WordMap:
    """Where a word is.

    Attributes:
        heat: Activation of each patch, moved and scaled to [0, 1], [rows, columns].
        row: Of the patch that says the word most; the first of equal ones.
        column: Of the same patch.
    """

    heat: npt.NDArray[np.float32]
    row: int
    column: int


@torch.inference_mode()
def word_maps(model: Any, image: torch.Tensor, words: Sequence[int]) -> list[WordMap]:
    """Find words in a picture.

    Args:
        model: Has ``encode_patches``, image [1, 3, height, width] -> activations [1, N, V], and ``visual.grid_size``.
        image: Preprocessed, [3, height, width].
        words: Their numbers.

    Returns:
        One map for each word.
    """
    rows, columns = model.visual.grid_size
    activations = model.encode_patches(image[None])[0, :, list(words)]  # [N, words]
    maps = activations.T.reshape(len(words), rows, columns).float().cpu().numpy()
    return [_word_map(found) for found in maps]


def _word_map(activations: npt.NDArray[np.float32]) -> WordMap:
    row, column = np.unravel_index(int(activations.argmax()), activations.shape)
    low, high = float(activations.min()), float(activations.max())
    heat = np.zeros_like(activations) if high == low else (activations - low) / (high - low)
    return WordMap(heat, int(row), int(column))


def seen_pixels(image: torch.Tensor, preprocess: Callable[[Any], Any]) -> npt.NDArray[np.uint8]:
    """Return what a model sees of a picture, whose patches the maps are about: resized and cropped.

    Args:
        image: Preprocessed, [3, height, width].
        preprocess: What made it; a step of it with ``mean`` and ``std`` is undone.

    Returns:
        RGB, [height, width, 3].
    """
    pixels = image.float().cpu()
    for step in getattr(preprocess, "transforms", ()):
        if hasattr(step, "mean") and hasattr(step, "std"):
            mean, std = (torch.as_tensor(getattr(step, name)).reshape(-1, 1, 1) for name in ("mean", "std"))
            pixels = pixels * std + mean
    return (pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def jpeg_address(pixels: npt.NDArray[np.uint8], longest: int) -> str:
    """Return a picture as a data address.

    Args:
        pixels: RGB, [height, width, 3].
        longest: Longest side; smaller pictures stay as they are.
    """
    picture = Image.fromarray(pixels)
    picture.thumbnail((longest, longest))
    return _address(picture, "jpeg", quality=_QUALITY, optimize=True)


def heat_address(heat: npt.NDArray[np.float32]) -> str:
    """Return a map as a data address: one pixel per patch, the stronger the less translucent.

    Args:
        heat: In [0, 1], [rows, columns].
    """
    pixels = np.empty((*heat.shape, 4), dtype=np.uint8)
    pixels[..., :3] = _TINT
    pixels[..., 3] = np.rint(heat * _OPAQUE)
    return _address(Image.fromarray(pixels), "png", optimize=True)


def _address(picture: Image.Image, form: str, **options: Any) -> str:
    stream = io.BytesIO()
    picture.save(stream, form.upper(), **options)
    return f"data:image/{form};base64," + base64.b64encode(stream.getvalue()).decode("ascii")
