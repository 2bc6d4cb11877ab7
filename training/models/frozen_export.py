"""Read the export of a recipe whose text is frozen: the image side, and what is needed to embed texts for it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from assets.errors import ConfigError, DataError, message
from assets.language.lexicon import Lexicon, read_lexicon
from assets.text_rows import TextFacts
from training.models.export_files import (
    COMPACT,
    FROZEN_TEXT,
    LEXICAL,
    OWN_CONFIG_FILE,
    WEIGHTS_FILE,
    own_config_has,
    read_export_config,
)
from training.models.frozen_build import build_frozen_text
from training.models.frozen_text import FrozenTextModel

_AGAIN = 'run "dvc repro pretrain"'


@dataclass(frozen=True, slots=True)
class FrozenTextExport:
    """An export in memory.

    Attributes:
        model: In evaluation mode; its scale and bias belong to the cosine.
        preprocess: Picture -> tensor [3, S, S], as open_clip's exports do it.
        text: Slots in the order of the cache, those that training saw, the means to take off (with ``center``), and
            in ``features`` the config of the stage that made the rows, which names the language model; in ``lexicon``
            the words of a lexical model.
    """

    model: FrozenTextModel
    preprocess: Callable[[Any], Tensor]
    text: TextFacts

    def encode_images(self, image: Tensor) -> Tensor:
        """Embed preprocessed pictures, [B, 3, S, S], in unit-norm features, [B, D]."""
        return self.model.encode_image(image, normalize=True)


def is_frozen_text_export(folder: Path) -> bool:
    """Say whether a model folder is one for :func:`load_export`.

    Raises:
        DataError: Its config cannot be read.
    """
    return own_config_has(folder, FROZEN_TEXT)


def load_export(folder: Path, device: torch.device | None = None) -> FrozenTextExport:
    """Load the export of a recipe whose text is frozen.

    Args:
        folder: The model folder.
        device: Where the model goes; None for the CPU.

    Raises:
        ConfigError: The text side is trained, and its language model is not there.
        DataError: A file is missing, config and weights do not fit, or the language model is another one.
    """
    for name in (OWN_CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise DataError(message(f"{folder} holds no export with frozen text: {name} is missing", fix=_AGAIN))
    config = read_export_config(folder / OWN_CONFIG_FILE)
    if COMPACT in config["model_cfg"]:
        fix = "load it with training.models.dense_export.load_dense"
        raise DataError(message(f"the export in {folder} has a text tower, and no frozen text", fix=fix))
    try:
        tensors = load_file(folder / WEIGHTS_FILE)
        means = tensors["slot_means"].numpy() if "slot_means" in tensors else None
        lexicon = read_lexicon(folder) if LEXICAL in config["model_cfg"] else None
        model = build_frozen_text(config["model_cfg"], means, lexicon)
        model.load_state_dict(tensors)
        facts = _text_facts(config["model_cfg"], means, lexicon)
        shown = PreprocessCfg(size=config["model_cfg"]["vision_cfg"]["image_size"], **config["preprocess_cfg"])
    except ConfigError as error:
        raise ConfigError(f"the text side of {folder} needs its language model: {error}") from error
    except DataError:
        raise
    except (SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
        text = " ".join(str(error).split())[:300]
        raise DataError(message(f"the export in {folder} does not load ({text})", fix=_AGAIN)) from error
    if facts.lexicon is not None and facts.lexicon.version != config["model_cfg"][LEXICAL]["vocabulary"]:
        what = f"the vocabulary in {folder} is not the one that its model was trained with"
        raise DataError(message(what, facts.lexicon.version, config["model_cfg"][LEXICAL]["vocabulary"], _AGAIN))
    if facts.center and means is None:
        raise DataError(message(f"the export in {folder} centres its text, and lacks the means", fix=_AGAIN))
    model = model.to(device or torch.device("cpu")).eval()
    preprocess: Any = image_transform_v2(shown, is_train=False)
    return FrozenTextExport(model, preprocess, facts)


def _text_facts(config: dict[str, Any], means: Any, lexicon: Lexicon | None) -> TextFacts:
    text = config[FROZEN_TEXT]
    slots = tuple((str(caption), str(facet)) for caption, facet in text["slots"])
    chosen = tuple(slots.index((str(caption), str(facet))) for caption, facet in text["trained_slots"])
    width: int = config["embed_dim"] if lexicon is None else config[LEXICAL]["text_width"]
    return TextFacts(slots, chosen, width, text["center"], means, text["features"], lexicon)
