"""An export of open_clip: loaded with plain open_clip, so a score is the score of what users load."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.constants import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME
from open_clip.transformer import VisionTransformer
from torch.nn import functional

from assets.errors import DataError, message
from evaluation.image_trunk import split_tower
from evaluation.sides import Array, ImageFeatures, Query, checked, in_order
from training.models.image_pass import encode_image


class OpenClipImages:
    """The image tower.

    Attributes:
        preprocess: Picture -> tensor [3, height, width].
        grid: Rows and columns of patches, or None for towers whose patch tokens do not lead to the shared space.
    """

    def __init__(self, model: Any, preprocess: Any, device: torch.device) -> None:
        self.preprocess: Any = preprocess
        self.grid: tuple[int, int] | None = _grid(model.visual)
        self._visual = model.visual
        self._trunk, self._project = split_tower(model)
        self._device = device

    @torch.inference_mode()
    def encode(self, images: torch.Tensor) -> ImageFeatures:
        """Encode one batch of preprocessed pictures, [B, 3, height, width]."""
        pooled = self._trunk(images.to(self._device, non_blocking=True))  # [B, W]
        projected = functional.normalize(self._project(pooled), dim=-1)  # [B, D]
        return ImageFeatures(checked(projected), checked(pooled))

    @torch.inference_mode()
    def encode_patches(self, images: torch.Tensor) -> Array:
        """Encode patches as the pooled token is: final norm, projection, unit norm, [B, N, D]."""
        tower = self._visual
        tokens = encode_image(tower, images.to(self._device, non_blocking=True)).image_token_features  # [B, N, W]
        if tower.final_ln_after_pool:
            tokens = tower.ln_post(tokens)
        projected = tokens if tower.proj is None else tokens @ tower.proj
        return checked(functional.normalize(projected, dim=-1))


def _grid(visual: Any) -> tuple[int, int] | None:
    """Return the patch grid of a ViT that pools by its class token or the mean; others mix patches as they pool."""
    if not isinstance(visual, VisionTransformer) or visual.attn_pool is not None:
        return None
    if visual.pool_type not in ("tok", "avg"):
        return None
    rows, columns = visual.grid_size
    return rows, columns


class OpenClipTexts:
    """The text tower and its tokenizer; long texts are cut at its context."""

    def __init__(self, model: Any, tokenize: Any, device: torch.device, batch_size: int, at_once: int) -> None:
        """Keep the parts.

        Args:
            model: An open_clip model.
            tokenize: Its tokenizer.
            device: Where the model is.
            batch_size: Captions per forward pass.
            at_once: Batches computed at a time.
        """
        self._model, self._tokenize, self._device = model, tokenize, device
        self._batch_size, self._at_once = batch_size, at_once

    def encode(self, captions: Sequence[str], query: Query = "caption") -> Array:
        """Encode texts, see :meth:`evaluation.sides.TextSide.encode`; long ones are not told from others."""
        batches = self._batches(captions)
        return np.concatenate(list(in_order(self._batch, batches, self._at_once)))

    def count_cut(self, captions: Sequence[str], query: Query = "caption") -> int:
        """Count the texts whose token ids would go on if the context were longer by one."""
        context: int = self._tokenize.context_length
        cut = 0
        for batch in self._batches(captions):
            text, longer = self._tokenize(batch), self._tokenize(batch, context_length=context + 1)
            # where a text is cut, its end token takes the place of a word
            cut += int((text != longer[:, :context]).any(dim=1).sum())
        return cut

    def _batches(self, captions: Sequence[str]) -> list[list[str]]:
        starts = range(0, len(captions), self._batch_size)
        return [list(captions[start : start + self._batch_size]) for start in starts]

    @torch.inference_mode()
    def _batch(self, captions: list[str]) -> Array:
        text = self._tokenize(captions).to(self._device)  # [B, T]
        return checked(self._model.encode_text(text, normalize=True))


def load_open_clip(
    folder: Path, device: torch.device, batch_size: int, at_once: int
) -> tuple[OpenClipImages, OpenClipTexts]:
    """Load an export.

    Args:
        folder: The model folder.
        device: Where it runs.
        batch_size: Captions per forward pass.
        at_once: Batches of captions computed at a time.

    Raises:
        DataError: There is no export, or open_clip does not load it.
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
        tokenize: Any = open_clip.get_tokenizer(source)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        text = " ".join(str(error).split())[:300]
        raise DataError(message(f"{folder} does not load in open_clip ({text})", fix="export it anew")) from error
    model = model.eval()
    return OpenClipImages(model, preprocess, device), OpenClipTexts(model, tokenize, device, batch_size, at_once)
