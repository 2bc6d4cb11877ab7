"""An export's preprocessing in two parts: what is done to one picture, and the numbers that a batch is turned into.

Pictures are scaled and cut one by one, by processes that read ahead. To turn bytes into normalised numbers one by one
takes longer than that (at 64 pixels several times as long), and a batch of numbers is four times as much to hand over
as one of bytes; so that part is done to whole batches, with the same arithmetic and so the same bits.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from open_clip.transform import MaybeConvertMode
from PIL import Image
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor


class Preprocess:
    """Both parts of a preprocessing.

    Args:
        transform: Picture -> tensor [3, height, width]. Where it does not end in conversion and normalisation, as those
            of open_clip do, all of it is done one by one.
    """

    def __init__(self, transform: Any) -> None:
        steps = list(transform.transforms) if isinstance(transform, Compose) else []
        self._whole, self._normalise, self._fits = transform, None, None
        if len(steps) > 1 and isinstance(steps[-2], ToTensor) and isinstance(steps[-1], Normalize):
            self._whole, self._normalise = Compose(steps[:-2]), steps[-1]
            self._fits = _size_left_alone(steps[:-2])

    def picture(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """Do what is done to one picture.

        Args:
            pixels: RGB, [height, width, 3].

        Returns:
            uint8 [height', width', 3] of the model's size, or what the whole transform makes, [3, height', width'].
        """
        if pixels.shape[:2] == self._fits:
            return torch.from_numpy(np.array(pixels))
        made: Any = self._whole(Image.fromarray(pixels))
        return made if self._normalise is None else torch.from_numpy(np.array(made))

    def batch(self, pictures: Tensor) -> Tensor:
        """Do the rest.

        Args:
            pictures: Of :meth:`picture`, [B, ...].

        Returns:
            float32 [B, 3, height', width'].
        """
        if self._normalise is None or pictures.dtype != torch.uint8:
            return pictures
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self._normalise.mean, self._normalise.std))
        return pictures.permute(0, 3, 1, 2).contiguous().float().div_(255).sub_(mean).div_(std)


def _size_left_alone(steps: list[Any]) -> tuple[int, int] | None:
    """Return height and width of RGB pictures that nothing is done to: those of the size that they are cut to."""
    scales = [step for step in steps if isinstance(step, Resize | CenterCrop)]
    sides = {int(side) for step in scales for side in np.atleast_1d(step.size)}
    known = all(isinstance(step, Resize | CenterCrop | MaybeConvertMode) for step in steps)
    if not known or len(sides) != 1 or not any(isinstance(step, CenterCrop) for step in scales):
        return None
    (side,) = sides
    return side, side
