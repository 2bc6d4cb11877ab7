"""From a recipe to a model, its tokenizer and the method around it; and from a model to an export folder and back."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, SimpleTokenizer
from safetensors.torch import save_file
from torch import Tensor, nn

from assets.atomic import write_json
from assets.errors import ConfigError, message
from assets.language.lexicon import Lexicon, write_lexicon
from assets.section import parse, unknown
from assets.text_rows import TextFacts
from training.config import RecipeConfig
from training.data.loader import Tokenize
from training.data.tokens import CaptionTokenizer, OpenClipTokenizer
from training.methods import METHODS
from training.methods.base import Method, MethodConfig
from training.methods.exchange import ImageInput
from training.models.compact import build_compact
from training.models.dense_export import DenseExport
from training.models.export_files import COMPACT, CONFIG_FILE, FROZEN_TEXT, OWN_CONFIG_FILE, WEIGHTS_FILE
from training.models.frozen_build import begin_lexicon, build_frozen_text, frozen_text_config
from training.models.image_pass import num_patches
from training.models.masking import check_masking
from training.models.masking_config import AttentiveMasking, NoMasking
from training.models.start import begin_as
from training.models.timm_tower import TimmPatchTower
from training.models.towers_config import (
    CustomTowers,
    NamedTowers,
    StartTowers,
    TextTransformer,
    Towers,
    VisionTimm,
    VisionTransformer,
)
from training.teachers.source import TeacherSource, text_side


def model_config(
    towers: Towers, text: TextFacts | None = None, start: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Spell the towers in open_clip's own config format.

    Args:
        towers: The recipe's towers.
        text: Facts of the rows, where text is frozen.
        start: Config of the model to start as, whose towers may be wanted.

    Returns:
        ``{"embed_dim", "vision_cfg", "text_cfg", ...}`` as open_clip's JSON files hold it; for frozen text
        ``{"embed_dim", "vision_cfg", "head_cfg" or "lexical_cfg", "frozen_text_cfg"}``.

    Raises:
        ConfigError: open_clip has no architecture of that name; the rows are of another width than ``embed_dim``.
    """
    if isinstance(towers, StartTowers):
        assert start is not None
        return dict(start)
    if isinstance(towers, NamedTowers):
        config = open_clip.get_model_config(towers.name)
        if config is None:
            raise ConfigError(unknown(towers.name, open_clip.list_models(), "open_clip architecture"))
        return config
    if isinstance(towers.text, TextTransformer):
        return {
            "embed_dim": towers.embed_dim,
            "vision_cfg": {"image_size": towers.image_size, **towers.vision.model_dump(exclude={"kind"})},
            "text_cfg": {"vocab_size": SimpleTokenizer().vocab_size, **towers.text.model_dump(exclude={"kind"})},
        }
    assert isinstance(towers.vision, VisionTransformer | VisionTimm) and text is not None
    return frozen_text_config(towers, towers.vision, text)


def build_model(
    config: dict[str, Any], slot_means: NDArray[np.float32] | None = None, lexicon: Lexicon | None = None
) -> nn.Module:
    """Build a freshly initialised model from its config; draws from torch's global generator.

    Args:
        config: See :func:`model_config`; or that of a model whose towers were cut, see
            :func:`training.models.compact.compact_model`.
        slot_means: Of frozen text that is centred, [R, D].
        lexicon: The words of a lexical head.

    Raises:
        ConfigError: The config of a cut model is not one.
    """
    if FROZEN_TEXT in config:
        return build_frozen_text(config, slot_means, lexicon)
    if COMPACT in config:
        return build_compact(config)
    options = dict(config)
    custom_text = options.pop("custom_text", False) or "hf_model_name" in options["text_cfg"]
    return (CustomTextCLIP if custom_text else CLIP)(**options)


def build_tokenizer(config: dict[str, Any]) -> Tokenize | None:
    """Build the tokenizer that open_clip uses for a config.

    Args:
        config: See :func:`model_config`.

    Returns:
        A function from captions to token ids and whether each caption was cut at the context, its end token kept; None
        where text is frozen.
    """
    if FROZEN_TEXT in config:
        return None
    text = config["text_cfg"]
    length = text.get("context_length", DEFAULT_CONTEXT_LENGTH)
    options = text.get("tokenizer_kwargs", {})
    if "hf_tokenizer_name" in text:
        tokenizer = open_clip.tokenizer.HFTokenizer(text["hf_tokenizer_name"], context_length=length, **options)
        return OpenClipTokenizer(tokenizer, tokenizer.tokenizer.pad_token_id or 0).encode
    if options:
        return OpenClipTokenizer(SimpleTokenizer(context_length=length, **options), 0).encode
    return CaptionTokenizer(length).encode


def image_size(config: dict[str, Any]) -> int:
    """Return the side of the square images that the image tower takes."""
    size = config["vision_cfg"].get("image_size", 224)
    return size if isinstance(size, int) else size[0]


def resolve_method(recipe: RecipeConfig) -> tuple[type[Method], MethodConfig]:
    """Find the class of a recipe's method and check the method's own config.

    Args:
        recipe: The recipe.

    Raises:
        ConfigError: A key of ``method`` is unknown or wrong.
    """
    module, _, name = METHODS[recipe.method["kind"]].partition(":")
    method: type[Method] = getattr(import_module(module), name)
    return method, parse(method.Config, recipe.method, "recipe.method")


def build_method(
    recipe: RecipeConfig,
    seed: int,
    text: TextFacts | None = None,
    start: DenseExport | None = None,
    teacher: TeacherSource | None = None,
) -> tuple[Method, dict[str, Any]]:
    """Build a recipe's method, with weights that are random or those that the recipe starts with.

    Args:
        recipe: The recipe.
        seed: Decides the initial weights.
        text: Facts of the text rows, where the recipe's text is frozen.
        start: The model to start as, where the recipe wants one.
        teacher: The run's, for methods that learn from one.

    Returns:
        The method and its model's config.

    Raises:
        ConfigError: The method or the masking does not go with the towers, or the towers not with the text rows, the
            model to start as or the teacher.
    """
    method_class, method_config = resolve_method(recipe)
    if method_class.needs_frozen_text and recipe.frozen_text is None:
        fix = 'set towers.text to "{kind: frozen, center: true}"'
        raise ConfigError(message(f"method {recipe.method['kind']} works with frozen text only", fix=fix))
    if text is not None:
        method_class.check_text(method_config, len(text.chosen))
    config = model_config(recipe.towers, text, None if start is None else start.config)
    config |= method_class.model_options(method_config)
    torch.manual_seed(seed)
    means, lexicon = (None, None) if text is None else (text.slot_means if text.center else None, text.lexicon)
    model: Any = build_model(config, means, begin_lexicon(config, lexicon))
    if isinstance(model.visual, TimmPatchTower) and isinstance(recipe.towers, CustomTowers):
        model.visual.begin(recipe.towers.vision)
    began = None
    if recipe.start is not None:
        assert start is not None
        began = begin_as(model, config, start, recipe.towers, recipe.start)
    _check_image_input(recipe, method_class.uses_ema_tower(method_config), model.visual)
    if recipe.freeze_patch_embedding:
        num_patches(model.visual)  # refuses towers that have none
        model.visual.conv1.requires_grad_(False)
    method = method_class(method_config, model, ImageInput(recipe.views, recipe.masking, recipe.ema_tower))
    method.model_config, method.began = config, began
    if teacher is not None:
        if teacher.online is not None:
            teacher.online.check_text(None if FROZEN_TEXT in config else text_side(config))
        method.attach_teacher(teacher)
    method.prepare(recipe.budget)
    return method, config


def _check_image_input(recipe: RecipeConfig, method_uses_ema: bool, visual: nn.Module) -> None:
    """Refuse a masking or an averaged tower that does not go with the rest of the recipe."""
    has_ema = recipe.ema_tower is not None
    if not isinstance(recipe.masking, NoMasking):
        check_masking(recipe.masking, visual, has_ema)
    if method_uses_ema and not has_ema:
        raise ConfigError(
            message(
                f"method {recipe.method['kind']} learns from an averaged tower, and the recipe has none",
                fix='add "ema_tower: {momentum: 0.996}" to it, or set the weight of that loss to 0',
            )
        )
    if has_ema and not (method_uses_ema or isinstance(recipe.masking, AttentiveMasking)):
        raise ConfigError(message("nothing in the recipe uses its ema_tower, which costs time", fix="remove it"))


def export_model(
    tensors: dict[str, Tensor], config: dict[str, Any], folder: Path, lexicon: Lexicon | None = None
) -> None:
    """Write a model so that open_clip loads it with ``"local-dir:FOLDER"``.

    With frozen text :func:`training.models.frozen_export.load_export` loads it, and with cut towers
    :func:`training.models.dense_export.load_dense`.

    Args:
        tensors: The model's state dict, whole and contiguous, in main memory.
        config: Its config.
        folder: An existing folder.
        lexicon: The words of a lexical model.
    """
    if lexicon is not None:
        write_lexicon(folder, lexicon)
    save_file(tensors, folder / WEIGHTS_FILE)
    preprocess = {
        "mean": list(OPENAI_DATASET_MEAN),
        "std": list(OPENAI_DATASET_STD),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    name = OWN_CONFIG_FILE if FROZEN_TEXT in config or COMPACT in config else CONFIG_FILE
    write_json(folder / name, {"model_cfg": config, "preprocess_cfg": preprocess})
