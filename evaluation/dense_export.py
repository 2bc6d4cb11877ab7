"""An export whose towers were cut: sides as those of open_clip's exports, around a model that open_clip cannot load."""

from pathlib import Path
from typing import Any

import torch
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, SimpleTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2

from evaluation.open_clip_export import OpenClipImages, OpenClipTexts
from training.models.dense_export import load_dense


def load_compact(
    folder: Path, device: torch.device, batch_size: int, at_once: int
) -> tuple[OpenClipImages, OpenClipTexts]:
    """Load an export with cut towers.

    Args:
        folder: The model folder.
        device: Where it runs.
        batch_size: Captions per forward pass.
        at_once: Batches of captions computed at a time.

    Raises:
        DataError: There is no export, or config and weights do not fit.
    """
    export = load_dense(folder)
    model = export.model.to(device)
    preprocess: Any = image_transform_v2(PreprocessCfg(**export.preprocess), is_train=False)
    # only a text tower that pools at the largest id can be cut, which is the end token of this tokenizer alone
    text = export.config["text_cfg"]
    length = text.get("context_length", DEFAULT_CONTEXT_LENGTH)
    tokenize = SimpleTokenizer(context_length=length, **text.get("tokenizer_kwargs", {}))
    return OpenClipImages(model, preprocess, device), OpenClipTexts(model, tokenize, device, batch_size, at_once)
