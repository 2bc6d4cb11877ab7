"""The captioner itself: image tower, codebook, vocabulary and text decoder; and its folder on disk."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.transformer import VisionTransformer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from assets.atomic import write_json
from assets.errors import ConfigError, DataError, message
from assets.section import parse
from training.captioner.config import CaptionerConfig
from training.captioner.decoder import Decoder
from training.captioner.quantiser import Quantised, Quantiser
from training.captioner.vocabulary import Vocabulary
from training.models.export_files import WEIGHTS_FILE as EXPORT_FILE
from training.models.image_pass import encode_image

CONFIG_FILE = "captioner_config.json"
WEIGHTS_FILE = "captioner.safetensors"
_CLIP_IDS = "vocabulary.clip_ids"


class Scores(NamedTuple):
    """What the captioner makes of images and their captions.

    Attributes:
        quantised: The image tokens.
        logits: Scores of the next token at each place, [B, T, V].
        labels: int64 [B, T], see :func:`training.losses.caption.caption_nll`.
    """

    quantised: Quantised
    logits: Tensor
    labels: Tensor


class CaptionModel(nn.Module):
    """Reads an image through a codebook and writes what it sees."""

    def __init__(self, config: CaptionerConfig, clip_ids: NDArray[np.int64]) -> None:
        """Build with fresh weights; draws from torch's global generator.

        Args:
            config: Sizes.
            clip_ids: From :func:`training.captioner.vocabulary.used_tokens`.
        """
        super().__init__()
        vision, text = config.vision, config.decoder
        self.visual = VisionTransformer(
            image_size=config.image_size,
            patch_size=vision.patch_size,
            width=vision.width,
            layers=vision.layers,
            heads=vision.width // vision.head_width,
            mlp_ratio=vision.mlp_ratio,
        )
        self.visual.proj = None  # of the class token, which nobody reads
        self.quantiser = Quantiser(config.codebook)
        self.vocabulary = Vocabulary(clip_ids)
        sizes = (text.layers, text.width, text.heads)
        self.decoder = Decoder(sizes, text.context_length, len(self.vocabulary), vision.width)

    def quantise(self, image: Tensor) -> Quantised:
        """Turn images into codes.

        Args:
            image: Normalised pixels, [B, 3, S, S].
        """
        return self.quantiser(encode_image(self.visual, image).image_token_features)  # [B, N, W]

    def forward(self, image: Tensor, text: Tensor, cut: Tensor) -> Scores:
        """Foresee each token of captions from the image and the tokens before.

        Args:
            image: Normalised pixels, [B, 3, S, S].
            text: CLIP's token ids, int64 [B, T].
            cut: Whether a caption was longer, bool [B].
        """
        ids, labels = self.vocabulary.number(text, cut)
        quantised = self.quantise(image)
        return Scores(quantised, self.decoder(ids, quantised.tokens), labels)


def save_captioner(tensors: dict[str, Tensor], config: CaptionerConfig, facts: dict[str, Any], folder: Path) -> None:
    """Write a captioner.

    Args:
        tensors: The model's state dict, whole and contiguous, in main memory.
        config: Its entry in params.yaml.
        facts: Scores on held-out pairs, JSON-serialisable.
        folder: An existing folder.
    """
    save_file(tensors, folder / WEIGHTS_FILE)
    preprocess = {"mean": list(OPENAI_DATASET_MEAN), "std": list(OPENAI_DATASET_STD), "interpolation": "bicubic"}
    described = {"captioner": config.model_dump(mode="json"), "preprocess": preprocess, "holdout": facts}
    write_json(folder / CONFIG_FILE, described)


def load_captioner_model(folder: Path) -> tuple[CaptionModel, CaptionerConfig, dict[str, Any]]:
    """Read a captioner.

    Args:
        folder: From :func:`save_captioner`.

    Returns:
        The model in evaluation mode, its entry in params.yaml, and its scores on held-out pairs.

    Raises:
        DataError: The folder holds no captioner, or the weights of another one.
    """
    try:
        described = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS_FILE)
        config = parse(CaptionerConfig, described["captioner"], str(folder / CONFIG_FILE))
        model = CaptionModel(config, tensors[_CLIP_IDS].numpy())
        model.load_state_dict(tensors)
    except (OSError, KeyError, RuntimeError) as error:
        raise DataError(message(f"{folder} holds no captioner ({error})", fix="make it again")) from error
    return model.eval(), config, described["holdout"]


def new_model(config: CaptionerConfig, clip_ids: NDArray[np.int64], export: Path | None) -> CaptionModel:
    """Build a captioner whose weights depend on its seed and on the export alone.

    Args:
        config: Its entry in params.yaml.
        clip_ids: From :func:`training.captioner.vocabulary.used_tokens`.
        export: A model folder whose image tower this one's starts as; None starts at random.

    Raises:
        ConfigError: The export's image tower is of another shape.
    """
    torch.manual_seed(config.seed)
    model = CaptionModel(config, clip_ids)
    if export is not None:
        _start_as(model.visual, export)
    return model


def _start_as(tower: nn.Module, export: Path) -> None:
    """Load an image tower from a model folder."""
    tensors = load_file(export / EXPORT_FILE)
    wanted = tower.state_dict()
    found = {name: tensors[f"visual.{name}"] for name in wanted if f"visual.{name}" in tensors}
    for name, own in wanted.items():
        shape = list(found[name].shape) if name in found else None
        if shape != list(own.shape):
            what, fix = f"{name} in the image tower of {export}", "give the captioner the vision of the run's recipe"
            raise ConfigError(
                message(what, shape, f"shape {list(own.shape)}", f"{fix} and its image_size, or run: none")
            )
    tower.load_state_dict(found)
