"""An exported model as evaluators see it: pictures and captions in, features out.

Everything that was trained runs in fp32, on a GPU too (TF32 off): evaluation is cheap beside training, and scores
should not depend on the machine. On a CPU each batch is computed by one thread, several batches at a time, because
PyTorch splits sums by its number of threads and the last bits of a feature would depend on it.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from assets.config import MachineConfig
from assets.device import pick_device
from assets.progress import Stage
from evaluation.dense_export import load_compact
from evaluation.frozen_text_export import load_frozen_text
from evaluation.open_clip_export import load_open_clip
from evaluation.preprocess import Preprocess
from evaluation.sides import ImageFeatures, ImageSide, PatchFeatures, PatchSide, TextSide, in_order
from evaluation.text_queries import Computing
from training.models.dense_export import is_compact_export
from training.models.frozen_export import is_frozen_text_export


class Encoder:
    """Both sides of an export.

    Attributes:
        text: The text side.
    """

    def __init__(self, images: ImageSide, text: TextSide, at_once: int) -> None:
        """Keep the sides.

        Args:
            images: The image side.
            text: The text side.
            at_once: Batches of pictures computed at a time.
        """
        self.text = text
        self._images, self._at_once = images, at_once
        self._preprocess = Preprocess(images.preprocess)

    def encode_images(self, batches: Iterable[torch.Tensor]) -> Iterator[ImageFeatures]:
        """Encode pictures.

        Args:
            batches: Stacked results of :meth:`preprocess_array`, or float32 [B, 3, height, width].

        Yields:
            The features of each batch in order.
        """
        return in_order(lambda batch: self._images.encode(self._preprocess.batch(batch)), batches, self._at_once)

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of patches, or None where the image side cannot tell patches apart."""
        return self._images.grid if isinstance(self._images, PatchSide) else None

    def encode_patches(self, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Iterator[PatchFeatures]:
        """Encode the patches of pictures; only where there is a ``grid``.

        Args:
            batches: Stacked results of :meth:`preprocess_array` each, and height and width of the pictures as stored,
                [B, 2].

        Yields:
            The features of each batch in order.
        """
        side = self._images
        assert isinstance(side, PatchSide)

        def encode(batch: tuple[torch.Tensor, torch.Tensor]) -> PatchFeatures:
            images, sizes = self._preprocess.batch(batch[0]), batch[1]
            stored = [(int(height), int(width)) for height, width in sizes.tolist()]
            return PatchFeatures(side.encode_patches(images), stored, (images.shape[-2], images.shape[-1]))

        return in_order(encode, batches, self._at_once)

    def preprocess_array(self, pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
        """Preprocess one decoded picture, as far as it pays to do that one by one (``preprocess.py``).

        Args:
            pixels: RGB, [height, width, 3].

        Returns:
            One picture of a batch of :meth:`encode_images`.
        """
        return self._preprocess.picture(pixels)


def load_encoder(folder: Path, machine: MachineConfig, batch_size: int, stage: Stage, local_rank: int = 0) -> Encoder:
    """Load an export of any kind.

    Args:
        folder: The model folder.
        machine: Device, and threads: as many batches are computed at a time on a CPU.
        batch_size: Captions per forward pass.
        stage: For the progress of frozen encoders, which are slow.
        local_rank: Number of this process on its machine.

    Raises:
        DataError: There is no export, or it does not load.
    """

    def sides(device: torch.device, at_once: int) -> tuple[ImageSide, TextSide]:
        if is_frozen_text_export(folder):
            return load_frozen_text(folder, Computing(device, machine.threads, stage))
        if is_compact_export(folder):
            return load_compact(folder, device, batch_size, at_once)
        return load_open_clip(folder, device, batch_size, at_once)

    return make_encoder(sides, machine, local_rank)


def make_encoder(
    sides: Callable[[torch.device, int], tuple[ImageSide, TextSide]], machine: MachineConfig, local_rank: int = 0
) -> Encoder:
    """Prepare the machine so that features do not depend on it, and load a model there.

    Args:
        sides: Loads both sides; gets the device, and how many batches are computed at a time.
        machine: Device, and threads: as many batches are computed at a time on a CPU.
        local_rank: Number of this process on its machine.
    """
    device = pick_device(machine, local_rank)
    at_once = 1
    if device.type == "cpu":
        torch.set_num_threads(1)
        at_once = machine.threads or os.cpu_count() or 1
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    images, text = sides(device, at_once)
    return Encoder(images, text, at_once)
