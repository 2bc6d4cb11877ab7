"""From a recipe whose text is frozen to the config of its model, and from that to the model, with or without words."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from assets.errors import ConfigError, message
from assets.language.lexicon import Lexicon
from assets.text_rows import TextFacts
from training.models.export_files import FROZEN_TEXT, LEXICAL
from training.models.frozen_text import FrozenTextModel
from training.models.lexical import LexicalModel, text_scale
from training.models.lora_build import load_prompt_model
from training.models.timm_tower import timm_vision_config
from training.models.towers_config import (
    CustomTowers,
    FrozenText,
    HeadConfig,
    LexicalHead,
    VisionTimm,
    VisionTransformer,
)


def frozen_text_config(towers: CustomTowers, vision: VisionTransformer | VisionTimm, text: TextFacts) -> dict[str, Any]:
    """Spell towers without a text tower.

    Args:
        towers: The recipe's.
        vision: Their image tower.
        text: Facts of the rows.

    Returns:
        See :func:`training.models.build.model_config`.

    Raises:
        ConfigError: ``embed_dim`` is not that of the features, or the head wants words and the rows have none.
    """
    head = towers.head or HeadConfig()
    lexical = isinstance(head, LexicalHead)
    part = (
        {LEXICAL: _lexical_config(head, text) | _lora_config(towers, text)}
        if lexical
        else {"head_cfg": _head_config(head, text)}
    )
    width = len(_lexicon_of(text).words) if lexical else text.width
    if towers.embed_dim not in (None, width):
        fix = "leave towers.embed_dim out, or name other features"
        what = f"towers.embed_dim is not the {'number of words' if lexical else 'width'} of the features"
        raise ConfigError(message(what, towers.embed_dim, width, fix))
    return {
        "embed_dim": width,
        "vision_cfg": _vision_config(towers.image_size, vision),
        **part,
        FROZEN_TEXT: {
            "slots": [list(slot) for slot in text.slots],
            "trained_slots": [list(text.slots[place]) for place in text.chosen],
            "center": text.center,
            "features": dict(text.features or {}),
        },
    }


def _vision_config(image_size: int, vision: VisionTransformer | VisionTimm) -> dict[str, Any]:
    if isinstance(vision, VisionTimm):
        return timm_vision_config(vision, image_size)
    return {"image_size": image_size, **vision.model_dump(exclude={"kind", "pool_type"})}


def _head_config(head: HeadConfig, text: TextFacts) -> dict[str, Any]:
    return {"kind": head.kind, "width": head.width or text.width}


def _lexical_config(head: LexicalHead, text: TextFacts) -> dict[str, Any]:
    lexicon = _lexicon_of(text)
    means = text.slot_means[list(text.chosen)] if text.center and text.slot_means is not None else None
    return {
        **head.model_dump(exclude={"kind", "width", "pool"}),
        "width": head.width or text.width,
        "pool_sum": head.pool == "sum",
        "text_width": text.width,
        "text_scale": text_scale(lexicon, means),
        "vocabulary": lexicon.version,
    }


def _lora_config(towers: CustomTowers, text: TextFacts) -> dict[str, Any]:
    lora = towers.text.lora if isinstance(towers.text, FrozenText) else None
    if lora is None:
        return {}
    if len(text.chosen) > 1:
        what = "towers.text.lora reads one caption of each pair, and towers.text.slots leaves more"
        raise ConfigError(message(what, ", ".join(text.names), fix="name one of them in towers.text.slots"))
    return {"lora": lora.model_dump(mode="json")}


def _lexicon_of(text: TextFacts) -> Lexicon:
    if text.lexicon is None:
        fix = "name an entry of kind lexical in the run's features, or take another head"
        raise ConfigError(message("towers.head of kind lexical wants features with a vocabulary", fix=fix))
    return text.lexicon


def trained_captions(config: dict[str, Any]) -> tuple[str, ...]:
    """Name the captions behind the slots that training sees.

    Args:
        config: The model's.
    """
    return tuple(dict.fromkeys(str(caption) for caption, _ in config[FROZEN_TEXT]["trained_slots"]))


def begin_lexicon(config: dict[str, Any], lexicon: Lexicon | None) -> Lexicon | None:
    """Return the words that a fresh model begins with; draws from torch's global generator where codebooks are random.

    Args:
        config: The model's.
        lexicon: That of the features.
    """
    if lexicon is None or config.get(LEXICAL, {}).get("codebook") != "random":
        return lexicon
    size = float(np.linalg.norm(lexicon.codebook, axis=1).mean() / np.sqrt(lexicon.codebook.shape[1]))
    return replace(lexicon, codebook=(size * torch.randn(lexicon.codebook.shape)).numpy())


def build_frozen_text(
    config: dict[str, Any], slot_means: NDArray[np.float32] | None, lexicon: Lexicon | None
) -> FrozenTextModel:
    """Build the model of a config; draws from torch's global generator.

    Args:
        config: See :func:`frozen_text_config`.
        slot_means: Of text that is centred, [R, D].
        lexicon: The words of a lexical head.

    Raises:
        ConfigError: The text side is trained, and its language model is not there or cannot be trained so.
        DataError: The language model is another one than made the features.
    """
    if LEXICAL not in config:
        return FrozenTextModel(config, slot_means)
    assert lexicon is not None
    asked = load_prompt_model(config[FROZEN_TEXT]["features"]) if config[LEXICAL].get("lora") else None
    return LexicalModel(config, slot_means, lexicon, asked)
