"""An exported model as evaluators see it: pictures and captions in, unit-norm features out.

The export is loaded with plain open_clip, so a score here is the score of what users load. Everything runs in fp32,
on a GPU too (TF32 off): evaluation is cheap beside training, and scores should not depend on the machine.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from open_clip.constants import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME
from PIL import Image

from assets.config import MachineConfig
from assets.errors import DataError, message


def pick_device(machine: MachineConfig) -> torch.device:
    """Return the device that the section ``machine`` asks for and set the number of CPU threads."""
    if machine.threads:
        torch.set_num_threads(machine.threads)
    if machine.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(machine.device)


class Encoder:
    """Both towers, the tokenizer and the preprocessing of an export.

    Attributes:
        preprocess: Picture -> tensor [3, height, width], as the export's own config says.
    """

    def __init__(self, folder: Path, device: torch.device, batch_size: int) -> None:
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
        self._device = device
        self._batch_size = batch_size
        self.preprocess: Any = preprocess
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False

    @torch.inference_mode()
    def encode_images(self, images: torch.Tensor) -> npt.NDArray[np.float32]:
        """Encode one batch of preprocessed pictures.

        Args:
            images: [B, 3, height, width], float32.

        Returns:
            Unit norm, [B, D].
        """
        features = self._model.encode_image(images.to(self._device, non_blocking=True), normalize=True)
        return _checked(features)

    @torch.inference_mode()
    def encode_captions(self, captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """Encode any number of captions in batches; the last batch may be short.

        Args:
            captions: The texts.

        Returns:
            Unit norm, [len(captions), D].
        """
        parts: list[npt.NDArray[np.float32]] = []
        for start in range(0, len(captions), self._batch_size):
            text = self._tokenize(list(captions[start : start + self._batch_size])).to(self._device)  # [B, T]
            parts.append(_checked(self._model.encode_text(text, normalize=True)))
        return np.concatenate(parts)

    def preprocess_array(self, pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
        """Preprocess one decoded picture.

        Args:
            pixels: RGB, [height, width, 3].

        Returns:
            [3, height, width] of the model's own size, float32.
        """
        return self.preprocess(Image.fromarray(pixels))


def _checked(features: torch.Tensor) -> npt.NDArray[np.float32]:
    """Move features to numpy and refuse what is not finite, which would rank nowhere without a word."""
    array = features.float().cpu().numpy()
    if not np.isfinite(array).all():
        raise DataError(message("the model gives features that are not finite", fix="its training diverged"))
    return array
