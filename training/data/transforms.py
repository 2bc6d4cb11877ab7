"""Random views of an image whose draws depend on (seed, epoch, key) only, never on order or worker."""

import hashlib
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from training.data.views import ContainingView, ResizedView, View, ViewsConfig

_BLOCK = struct.Struct("<8Q")
_UNIT = 2.0**-53
_SEED_BLOCK = b"seed"


class SampleDraws:
    """The random numbers of one sample in one epoch: hashes of (seed, epoch, key) and a counter.

    Making a generator object would cost 47 us, 4 % of a sample; a hash costs 6 and gives eight numbers.
    """

    def __init__(self, seed: int, epoch: int, key: str) -> None:
        self._start = hashlib.blake2b(f"{seed}/{epoch}/{key}/".encode())
        self._blocks = 0
        self._ready: list[float] = []

    def uniform(self, count: int) -> list[float]:
        """Draw the next numbers, evenly spread over [0, 1).

        Args:
            count: How many; drawing them in one call or in several gives the same ones.
        """
        while len(self._ready) < count:
            block = self._start.copy()
            block.update(str(self._blocks).encode())
            self._blocks += 1
            self._ready += [(number >> 11) * _UNIT for number in _BLOCK.unpack(block.digest())]
        drawn, self._ready = self._ready[:count], self._ready[count:]
        return drawn

    @property
    def seed(self) -> int:
        """A number in [0, 2**63), the same however much has been drawn, to seed what draws elsewhere."""
        block = self._start.copy()
        block.update(_SEED_BLOCK)
        return int.from_bytes(block.digest()[:8], "little") >> 1


@dataclass(frozen=True, slots=True)
class CropDraw:
    """The parameters of one random view, enough to apply it again.

    Attributes:
        left: Left edge of the crop in source pixels.
        top: Top edge in source pixels.
        width: Width in source pixels, at least 1.
        height: Height in source pixels, at least 1.
        flip: Whether the view is mirrored.
    """

    left: int
    top: int
    width: int
    height: int
    flip: bool

    @property
    def box(self) -> tuple[int, int, int, int, bool]:
        """Top, left, height, width and flip, as the batch has them."""
        return self.top, self.left, self.height, self.width, self.flip

    def reduced(self, factor: int) -> "CropDraw":
        """Return the same crop of the source shrunk by a whole factor, its edges rounded to whole pixels."""
        if factor == 1:
            return self
        left, top = round(self.left / factor), round(self.top / factor)
        width = max(round((self.left + self.width) / factor) - left, 1)
        height = max(round((self.top + self.height) / factor) - top, 1)
        return replace(self, left=left, top=top, width=width, height=height)


def draw_crop(views: ViewsConfig, width: int, height: int, draws: SampleDraws) -> CropDraw:
    """Draw a crop with area and aspect from the config's ranges, shrunk where it would leave the image.

    Args:
        views: The ranges.
        width: Source width in pixels.
        height: Source height in pixels.
        draws: The sample's draws; five numbers are taken.

    Returns:
        The crop, inside the source.
    """
    area_draw, aspect_draw, x_draw, y_draw, flip_draw = draws.uniform(5)
    crop_width, crop_height = width, height
    if views.crop_area != (1.0, 1.0):
        low, high = views.crop_area
        area = width * height * (low + (high - low) * area_draw)
        narrow, wide = views.crop_aspect
        aspect = narrow * (wide / narrow) ** aspect_draw
        crop_width = min(max(round(math.sqrt(area * aspect)), 1), width)
        crop_height = min(max(round(math.sqrt(area / aspect)), 1), height)
    return CropDraw(
        left=int(x_draw * (width - crop_width + 1)),
        top=int(y_draw * (height - crop_height + 1)),
        width=crop_width,
        height=crop_height,
        flip=flip_draw < views.flip,
    )


def draw_containing(crops: Sequence[CropDraw], width: int, height: int, draws: SampleDraws) -> CropDraw:
    """Draw a crop that holds others: each edge lies anywhere between theirs and the edge of the image.

    Args:
        crops: What must lie inside, themselves inside the source.
        width: Source width in pixels.
        height: Source height in pixels.
        draws: The sample's draws; four numbers are taken.

    Returns:
        The crop, inside the source, never mirrored.
    """
    top_draw, left_draw, bottom_draw, right_draw = draws.uniform(4)
    lowest, rightmost = max(c.top + c.height for c in crops), max(c.left + c.width for c in crops)
    top = int(top_draw * (min(c.top for c in crops) + 1))
    left = int(left_draw * (min(c.left for c in crops) + 1))
    bottom = lowest + int(bottom_draw * (height - lowest + 1))
    right = rightmost + int(right_draw * (width - rightmost + 1))
    return CropDraw(left, top, right - left, bottom - top, flip=False)


def draw_views(views: Mapping[str, View], width: int, height: int, draws: SampleDraws) -> dict[str, CropDraw]:
    """Draw the crop of each view of one sample, in the order given.

    Args:
        views: Name -> what to draw; a containing view stands behind those that it holds.
        width: Source width in pixels.
        height: Source height in pixels.
        draws: The sample's draws; the first view gets the numbers it would get alone.
    """
    crops: dict[str, CropDraw] = {}
    for name, view in views.items():
        if isinstance(view, ContainingView):
            crops[name] = draw_containing([crops[other] for other in view.around], width, height, draws)
        elif isinstance(view, ResizedView):
            crops[name] = crops[view.of]
        else:
            crops[name] = draw_crop(view, width, height, draws)
    return crops


def side_of(view: View, size: int) -> int:
    """Return the side of a view in pixels where a plain one has ``size``."""
    if isinstance(view, ResizedView):
        return view.side
    return size // view.shrink if isinstance(view, ContainingView) else size


def apply_crop(pixels: NDArray[np.uint8], crop: CropDraw, size: int) -> NDArray[np.uint8]:
    """Cut and resize (bicubic, antialiased) one view.

    Args:
        pixels: Source image, [height, width, 3].
        crop: What was drawn, in source pixels.
        size: Side of the square result.

    Returns:
        The view, [size, size, 3]; of a crop of that very size the pixels themselves.
    """
    view = pixels[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    if not view.flags.writeable or min(view.strides) < 0:  # torch takes no such array; a copy of all costs 5 %
        view = view.copy()
    # torch's vectorised kernel wants the channels last in memory, which it sees in a batch only
    batch = torch.from_numpy(view)[None].permute(0, 3, 1, 2)  # [1, 3, h, w]
    if view.shape[:2] != (size, size):
        batch = interpolate(batch, (size, size), mode="bicubic", antialias=True)
    if crop.flip:
        batch = batch.flip(3)  # numpy copies a mirrored view at a fifth of the speed
    return batch.numpy()[0].transpose(1, 2, 0)
