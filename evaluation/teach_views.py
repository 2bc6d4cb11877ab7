"""The pictures that a teacher is asked about: K random views of each image, as training draws them, and the whole."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from assets.errors import DataError, message
from assets.picture import Picture, PictureError
from evaluation.teach_models import ExportFacts
from training.data.colour import change_colours
from training.data.pairs import PairReader, Pairs
from training.data.transforms import CropDraw, SampleDraws, apply_crop, draw_crop
from training.teachers.config import CacheConfig


class TeacherViews(Dataset[tuple[Tensor, Tensor]]):
    """Views of pairs and the seeds of their colours, uint8 [K + 1, 3, S, S] and int64 [K]; the last view is the whole.

    View v of a pair is what training draws in epoch v with the cache's seed, to the pixel.
    """

    def __init__(self, pairs: Pairs, cache: CacheConfig, size: int) -> None:
        """Prepare; nothing is opened yet.

        Args:
            pairs: What to read.
            cache: How many views, and how they are drawn.
            size: Their side in pixels, S.
        """
        self._pairs, self._cache, self._size = pairs, cache, size
        self._reader: PairReader | None = None

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        if self._reader is None:  # one per worker process
            self._reader = PairReader(self._pairs)
        key: str = self._pairs.keys[position].as_py()
        draws = [SampleDraws(self._cache.seed, view, key) for view in range(self._cache.views)]
        data = self._reader.read(position)
        try:
            picture = Picture(data)
            width, height = picture.width, picture.height
            crops = [draw_crop(self._cache.crop, width, height, drawn) for drawn in draws]
            whole = CropDraw(0, 0, width, height, flip=False)
            pixels = cut(picture, [*crops, whole], self._size)
        except PictureError as error:
            what = f"sample {key} of {self._pairs.folder} cannot be decoded ({error})"
            fix = 'its shard has changed since validation: rerun "dvc repro"'
            raise DataError(message(what, fix=fix)) from error
        seeds = torch.tensor([drawn.seed for drawn in draws], dtype=torch.int64)
        return torch.from_numpy(pixels).permute(0, 3, 1, 2), seeds


def cut(picture: Picture, crops: Iterable[CropDraw], size: int) -> NDArray[np.uint8]:
    """Cut several crops, each as if it were the only one: decoded as finely as it alone needs.

    Crops of about one size share a decoded picture, so that nearly always it is decoded once.

    Args:
        picture: The image file.
        crops: In pixels of the whole image.
        size: Side of the square results.

    Returns:
        [n, size, size, 3].

    Raises:
        PictureError: The file is damaged.
    """
    decoded: dict[int, NDArray[np.uint8]] = {}
    views: list[NDArray[np.uint8]] = []
    for crop in crops:
        # a picture is shrunk by powers of two only
        shrink = 1 << (max(min(crop.width, crop.height) // size, 1).bit_length() - 1)
        if shrink not in decoded:
            decoded[shrink] = picture.pixels(shrink=shrink)
        pixels = decoded[shrink]
        factor = round(picture.width / pixels.shape[1])
        views.append(apply_crop(pixels, crop.reduced(factor), size))
    return np.stack(views)


def prepared(read: Iterable[tuple[Tensor, Tensor]], cache: CacheConfig, facts: ExportFacts) -> Iterator[Tensor]:
    """Change the colours of views where the cache says so, and normalise them as the teacher wants it.

    Args:
        read: Batches of :class:`TeacherViews`, uint8 [B, K + 1, 3, S, S] and int64 [B, K].
        cache: How views are drawn.
        facts: Of the teacher.

    Yields:
        The views of one pair after those of another, float32 [B (K + 1), 3, S, S].
    """
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (facts.mean, facts.std))
    for pixels, seeds in read:
        images = pixels.float() / 255
        if cache.crop.colour is not None:
            views = images[:, :-1].flatten(0, 1)
            changed = change_colours(views, seeds.flatten(), 0, cache.crop.colour)
            images[:, :-1] = changed.unflatten(0, (-1, cache.views))
        yield ((images - mean) / std).flatten(0, 1)
