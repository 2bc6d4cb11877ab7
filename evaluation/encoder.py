"""An exported model as evaluators see it: pictures and captions in, features out.

The export is loaded with plain open_clip, so a score here is the score of what users load. Everything runs in fp32,
on a GPU too (TF32 off): evaluation is cheap beside training, and scores should not depend on the machine. On a CPU each
batch is computed by one thread, several batches at a time, because PyTorch splits sums by its number of threads and the
last bits of a feature would depend on it.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from open_clip.constants import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME
from PIL import Image
from torch.nn import functional

from assets.config import MachineConfig
from assets.errors import DataError, message
from evaluation.image_trunk import split_tower

Array = npt.NDArray[np.float32]
Encoded = TypeVar("Encoded")


class ImageFeatures(NamedTuple):
    """What the image tower says of a batch, from one forward pass.

    Attributes:
        image_features: After the projection, unit norm, [B, D].
        pooled_features: Before the projection, not normalised, [B, W].
    """

    image_features: Array
    pooled_features: Array


def pick_device(machine: MachineConfig) -> torch.device:
    """Return the device that the section ``machine`` asks for."""
    if machine.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(machine.device)


class Encoder:
    """Both towers, the tokenizer and the preprocessing of an export.

    Attributes:
        preprocess: Picture -> tensor [3, height, width], as the export's own config says.
    """

    def __init__(self, folder: Path, device: torch.device, batch_size: int, threads: int = 0) -> None:
        """Load an export.

        Args:
            folder: The model folder.
            device: Where it runs.
            batch_size: Captions per forward pass.
            threads: Batches computed at a time on a CPU; 0 for one per core.
        """
        for name in (HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME):
            if not (folder / name).is_file():
                raise DataError(message(f"{folder} holds no export: {name} is missing", fix='run "dvc repro pretrain"'))
        source = f"local-dir:{folder}"
        try:
            # the export holds every weight: a pretrained tower named in its config must not be fetched first
            model, _, preprocess = open_clip.create_model_and_transforms(
                source, device=device, pretrained_text=False, precision="fp32"
            )
            self._tokenize: Any = open_clip.get_tokenizer(source)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            text = " ".join(str(error).split())[:300]
            raise DataError(message(f"{folder} does not load in open_clip ({text})", fix="export it anew")) from error
        self._model: Any = model.eval()
        self._trunk, self._project = split_tower(self._model)
        self._device = device
        self._batch_size = batch_size
        self.preprocess: Any = preprocess
        self._at_once = 1
        if device.type == "cpu":
            torch.set_num_threads(1)
            self._at_once = threads or os.cpu_count() or 1
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False

    def encode_images(self, batches: Iterable[torch.Tensor]) -> Iterator[ImageFeatures]:
        """Encode preprocessed pictures.

        Args:
            batches: [B, 3, height, width] each, float32.

        Yields:
            The features of each batch in order.
        """
        return self._in_order(self._image_batch, batches)

    def encode_captions(self, captions: Sequence[str]) -> Array:
        """Encode any number of captions in batches; the last batch may be short.

        Args:
            captions: The texts.

        Returns:
            Unit norm, [len(captions), D].
        """
        starts = range(0, len(captions), self._batch_size)
        batches = (list(captions[start : start + self._batch_size]) for start in starts)
        return np.concatenate(list(self._in_order(self._caption_batch, batches)))

    def _in_order(self, encode: Callable[[Any], Encoded], batches: Iterable[Any]) -> Iterator[Encoded]:
        """Encode several batches at a time; never hold more than can be worked on."""
        with ThreadPoolExecutor(self._at_once) as pool:
            waiting: deque[Future[Encoded]] = deque()
            for batch in batches:
                waiting.append(pool.submit(encode, batch))
                if len(waiting) > self._at_once:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    @torch.inference_mode()
    def _image_batch(self, images: torch.Tensor) -> ImageFeatures:
        pooled = self._trunk(images.to(self._device, non_blocking=True))  # [B, W]
        projected = functional.normalize(self._project(pooled), dim=-1)  # [B, D]
        return ImageFeatures(_checked(projected), _checked(pooled))

    @torch.inference_mode()
    def _caption_batch(self, captions: list[str]) -> Array:
        text = self._tokenize(captions).to(self._device)  # [B, T]
        return _checked(self._model.encode_text(text, normalize=True))

    def preprocess_array(self, pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
        """Preprocess one decoded picture.

        Args:
            pixels: RGB, [height, width, 3].

        Returns:
            [3, height, width] of the model's own size, float32.
        """
        return self.preprocess(Image.fromarray(pixels))


def _checked(features: torch.Tensor) -> Array:
    """Move features to numpy and refuse what is not finite, which would rank nowhere without a word."""
    array = features.float().cpu().numpy()
    if not np.isfinite(array).all():
        raise DataError(message("the model gives features that are not finite", fix="its training diverged"))
    return array
