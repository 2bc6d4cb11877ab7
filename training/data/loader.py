"""Steps to batches: reads, decodes, crops and tokenises what one rank sees in one optimiser step."""

import signal
from collections.abc import Callable, Iterator
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from training.config import ViewsConfig
from training.data.order import SampleOrder
from training.data.pairs import PairReader, Pairs
from training.data.transforms import apply_crop, draw_crop, sample_generator

Tokenize = Callable[[list[str]], Tensor]


class Batch(TypedDict):
    """What a method gets.

    Attributes:
        image: Views, uint8 [B, 3, S, S].
        text: Token ids, int64 [B, T].
        sample_id: Positions in the training pairs, int64 [B].
    """

    image: Tensor
    text: Tensor
    sample_id: Tensor


class StepDataset(Dataset[Batch]):
    """Item s is the whole batch of optimiser step s, so a loader resumes by starting at s."""

    def __init__(
        self,
        pairs: Pairs,
        order: SampleOrder,
        views: ViewsConfig,
        tokenize: Tokenize,
        image_size: int,
        seed: int,
        rank: int,
        world_size: int,
    ) -> None:
        self._pairs, self._order, self._views, self._tokenize = pairs, order, views, tokenize
        self._image_size, self._seed, self._rank, self._world_size = image_size, seed, rank, world_size
        self._reader: PairReader | None = None

    def __getitem__(self, step: int) -> Batch:
        if self._reader is None:  # opened in the process that reads
            self._reader = PairReader(self._pairs)
        positions, epochs = self._order.batch(step, self._rank, self._world_size)
        size = self._image_size
        images = np.empty((len(positions), size, size, 3), dtype=np.uint8)
        for row, (position, epoch) in enumerate(zip(positions.tolist(), epochs.tolist(), strict=True)):
            pixels = self._reader.image(position)
            random = sample_generator(self._seed, epoch, self._pairs.keys[position].as_py())
            crop = draw_crop(self._views, pixels.shape[1], pixels.shape[0], random)
            images[row] = apply_crop(pixels, crop, size)
        return {
            "image": torch.from_numpy(images).permute(0, 3, 1, 2),
            "text": self._tokenize([self._pairs.captions[p].as_py() for p in positions.tolist()]),
            "sample_id": torch.from_numpy(positions),
        }


def _ignore_signals(_worker: int) -> None:
    """Leave signals to the main process, which still wants its batch before it saves and stops."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def batches(dataset: StepDataset, first_step: int, last_step: int, workers: int, pin_memory: bool) -> Iterator[Batch]:
    """Yield the batches of steps ``first_step .. last_step - 1`` in order.

    Args:
        dataset: Where a step becomes a batch.
        first_step: The step to begin with.
        last_step: One past the last step.
        workers: Loader processes; the result does not depend on it.
        pin_memory: Page-lock the tensors, for copies to a GPU.
    """
    loader: DataLoader[Batch] = DataLoader(
        dataset,
        batch_size=None,
        sampler=range(first_step, last_step),
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        pin_memory=pin_memory,
        worker_init_fn=_ignore_signals,
    )
    yield from loader
