"""Corruptions of pictures: noise, blur, lost contrast, compression, covered parts, each in five severities.

The idea, a model asked about pictures damaged in fixed ways and steps, is that of Hendrycks & Dietterich 2019
(https://arxiv.org/abs/1903.12261). Strengths and implementations are our own, chosen so that the steps are about as
far apart on pictures of 64 pixels as on larger ones: what has a length (blur, pixels, covered parts) is given as a
share of the shorter side. Scores are therefore not comparable with published ones on ImageNet-C.

What is random follows from the sample's key, the corruption and the severity, and from nothing else, so every model
sees the same pictures, on every machine and in any order.
"""

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from assets.errors import ConfigError, message
from assets.section import unknown

CorruptionName = Literal[
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "gaussian_blur",
    "motion_blur",
    "brightness",
    "contrast",
    "saturate",
    "jpeg",
    "pixelate",
    "occlusion",
]
NAMES: tuple[CorruptionName, ...] = get_args(CorruptionName)
SEVERITIES = 5
Pixels = npt.NDArray[np.uint8]
_Change = Callable[[Pixels, float, np.random.Generator], "npt.NDArray[np.float64] | Pixels"]

_LUMA = np.array([0.299, 0.587, 0.114])
_GREY = 127


def _gaussian_noise(pixels: Pixels, strength: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Add normal noise; strength is its standard deviation as a share of white."""
    return pixels + 255 * strength * rng.standard_normal(pixels.shape)


def _shot_noise(pixels: Pixels, strength: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Count light in few quanta; strength is how many of them make white."""
    return rng.poisson(pixels / 255 * strength) / strength * 255


def _impulse_noise(pixels: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """Set values to 0 or 255; strength is their share."""
    hit = rng.random(pixels.shape) < strength
    return np.where(hit, 255 * rng.integers(0, 2, pixels.shape, dtype=np.uint8), pixels)


def _gaussian_blur(pixels: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """Blur evenly; strength is the standard deviation as a share of the shorter side."""
    del rng
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(strength * min(pixels.shape[:2]))))


def _motion_blur(pixels: Pixels, strength: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Average along a line of random direction; strength is its length as a share of the shorter side."""
    kernel = _line(strength * min(pixels.shape[:2]), float(rng.uniform(0, np.pi)))
    reach, (height, width) = len(kernel) // 2, pixels.shape[:2]
    padded = np.pad(pixels, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    total = np.zeros(pixels.shape)
    for row, column in np.argwhere(kernel):
        total += kernel[row, column] * padded[row : row + height, column : column + width]
    return total


def _line(length: float, angle: float) -> npt.NDArray[np.float64]:
    """Draw a line through the middle of a square of odd side, each point shared among its four pixels; sum 1."""
    reach = int(np.ceil(length / 2)) + 1
    along = np.linspace(-length / 2, length / 2, 4 * reach + 1)
    y, x = along * np.sin(angle) + reach, along * np.cos(angle) + reach
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    for down in (0, 1):
        for right in (0, 1):
            share = np.abs(1 - down - (y - top)) * np.abs(1 - right - (x - left))
            np.add.at(kernel, (np.minimum(top + down, 2 * reach), np.minimum(left + right, 2 * reach)), share)
    return kernel / float(kernel.sum())


def _brightness(pixels: Pixels, strength: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Make brighter; strength is what is added, as a share of white."""
    del rng
    return pixels.astype(np.float64) + 255 * strength


def _contrast(pixels: Pixels, strength: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Draw all colours towards their mean; strength is the share of the distance that is left."""
    del rng
    mean = pixels.mean(axis=(0, 1))
    return mean + strength * (pixels - mean)


def _saturate(pixels: Pixels, strength: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Make colours gaudy; strength is the factor of their distance from grey of the same brightness."""
    del rng
    grey = (pixels @ _LUMA)[..., None]
    return grey + strength * (pixels - grey)


def _jpeg(pixels: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """Compress as JPEG; strength is the quality."""
    del rng
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=int(strength))
    with Image.open(stream) as image:
        return np.asarray(image.convert("RGB"))


def _pixelate(pixels: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """Make pixels coarse; strength is how many are left along the shorter side, if there are more."""
    del rng
    image = Image.fromarray(pixels)
    scale = min(1.0, strength / min(image.size))
    coarse = (round(scale * image.width), round(scale * image.height))
    return np.asarray(image.resize(coarse, Image.Resampling.BOX).resize(image.size, Image.Resampling.NEAREST))


def _occlusion(pixels: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """Cover a rectangle somewhere with grey; strength is its share of the picture."""
    height, width = pixels.shape[:2]
    shape = float(np.exp(rng.uniform(-0.4, 0.4)))
    down = min(height, max(1, round(height * np.sqrt(strength) * shape)))
    across = min(width, max(1, round(width * np.sqrt(strength) / shape)))
    top, left = int(rng.integers(0, height - down + 1)), int(rng.integers(0, width - across + 1))
    covered = pixels.copy()
    covered[top : top + down, left : left + across] = _GREY
    return covered


_TABLE: Mapping[CorruptionName, tuple[_Change, tuple[float, float, float, float, float]]] = {
    "gaussian_noise": (_gaussian_noise, (0.05, 0.09, 0.14, 0.20, 0.28)),
    "shot_noise": (_shot_noise, (80, 40, 20, 10, 5)),
    "impulse_noise": (_impulse_noise, (0.02, 0.05, 0.09, 0.15, 0.24)),
    "gaussian_blur": (_gaussian_blur, (0.010, 0.017, 0.026, 0.038, 0.052)),
    "motion_blur": (_motion_blur, (0.05, 0.08, 0.12, 0.17, 0.23)),
    "brightness": (_brightness, (0.10, 0.18, 0.27, 0.37, 0.48)),
    "contrast": (_contrast, (0.70, 0.50, 0.35, 0.22, 0.12)),
    "saturate": (_saturate, (1.6, 2.3, 3.4, 5, 8)),
    "jpeg": (_jpeg, (45, 28, 17, 10, 6)),
    "pixelate": (_pixelate, (45, 32, 23, 16, 11)),
    "occlusion": (_occlusion, (0.05, 0.10, 0.18, 0.28, 0.40)),
}


@dataclass(frozen=True, slots=True)
class Corruption:
    """One corruption in one severity: an ``Alteration`` of ``features.py``, so it can go to worker processes.

    Attributes:
        name: One of ``NAMES``.
        severity: 1 to ``SEVERITIES``, the strongest last.

    Raises:
        ConfigError: There is no such corruption or severity.
    """

    name: CorruptionName
    severity: int

    def __post_init__(self) -> None:
        if self.name not in _TABLE:
            raise ConfigError(unknown(self.name, list(NAMES), "corruption"))
        if not 1 <= self.severity <= SEVERITIES:
            raise ConfigError(
                message(f"{self.name}: no such severity", self.severity, f"a whole number of 1..{SEVERITIES}")
            )

    def __call__(self, pixels: Pixels, key: str) -> Pixels:
        """Corrupt one picture.

        Args:
            pixels: RGB, [height, width, 3].
            key: Of the sample; decides all that is random.

        Returns:
            RGB, [height, width, 3].
        """
        change, strengths = _TABLE[self.name]
        seed = hashlib.blake2b(f"{key}/{self.name}/{self.severity}".encode(), digest_size=16).digest()
        rng = np.random.default_rng(int.from_bytes(seed, "big"))
        changed = change(pixels, strengths[self.severity - 1], rng)
        return np.clip(np.rint(changed), 0, 255).astype(np.uint8)
