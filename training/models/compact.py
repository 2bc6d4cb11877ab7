"""A model whose two towers were cut to what their gates keep: cutting it, and building it again from its config.

The config is that of the model before the cut, with ``compact_cfg`` added: the dims of both towers as JSON, see
:mod:`training.models.compaction`. Everything that does not change with a cut is read from the rest of the config:
image size, tokenizer, context, logit scale.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import Tensor, nn

from assets.errors import ConfigError, message
from training.models.compaction import ImageDims, TextDims, build_tower, compact, read_dims, set_text_tower
from training.models.export_files import COMPACT
from training.models.gates import GateValues, KeptCounts

_AGAIN = "take the config that was stored with the weights"


class TowerCut(NamedTuple):
    """What is left of a tower.

    Attributes:
        before: Width, heads and MLP units of each layer, as the config of the whole tower says.
        after: The same of the cut tower.
    """

    before: KeptCounts
    after: KeptCounts


def build_compact(config: Mapping[str, Any]) -> CLIP:
    """Build a model with cut towers, with random weights.

    Args:
        config: Of open_clip's kind, with ``compact_cfg``, see :func:`compact_model`.

    Returns:
        open_clip's own class around towers of :func:`training.models.compaction.build_tower`: ``encode_image``,
        ``encode_text`` and ``logit_scale`` as always.

    Raises:
        ConfigError: The dims cannot be read, or are not those of a model with this config.
    """
    image, text = _read_both(config)
    others = (COMPACT, "vision_cfg", "text_cfg", "custom_text")
    options = {name: value for name, value in config.items() if name not in others}
    # towers of the smallest size hold the place, because both are replaced
    small: dict[str, Any] = {"width": 8, "layers": 1}
    vision_cfg = small | {"head_width": 8, "image_size": 8, "patch_size": 8}
    text_cfg = small | {"heads": 1, "context_length": 1, "vocab_size": 1}
    try:
        model = CLIP(vision_cfg=vision_cfg, text_cfg=text_cfg, **options)  # pyright: ignore[reportArgumentType]
    except TypeError as error:
        raise ConfigError(
            message(f"the config of a cut model has a key that CLIP lacks: {error}", fix=_AGAIN)
        ) from error
    _put_towers(model, build_tower(image), build_tower(text))
    return model


def compact_model(
    model: CLIP, config: Mapping[str, Any], image_gates: GateValues, text_gates: GateValues
) -> tuple[CLIP, dict[str, Any]]:
    """Cut both towers of a model down to what settled gates keep.

    Args:
        model: With towers that can have gates; may have been cut before. Left as it is.
        config: The model's.
        image_gates: Of ``model.visual``, from :meth:`training.models.gates.TowerGates.settled`.
        text_gates: Of the text side, alike.

    Returns:
        A model on the same device, in the same precision and mode, that computes without gates what this one does under
        them; its weights are copies. And its config, with the dims in ``compact_cfg``.

    Raises:
        ConfigError: The model is not open_clip's CLIP, a tower cannot have gates, they are not of its shapes, or they
            close a whole width.
    """
    if not isinstance(model, CLIP):  # pyright: ignore[reportUnnecessaryIsInstance]
        wanted = "open_clip's CLIP, whose text side is its own"
        raise ConfigError(message("cannot cut this model", type(model).__name__, wanted, "choose towers without timm"))
    image, text = compact(model.visual, image_gates), compact(model, text_gates)
    dims = {"image": image.dims.model_dump(mode="json"), "text": text.dims.model_dump(mode="json")}
    smaller = {**config, COMPACT: dims}
    with torch.random.fork_rng(devices=[]):  # the random weights are overwritten, and cost the caller no draws
        cut = build_compact(smaller)
    weight = model.text_projection
    assert isinstance(weight, Tensor)  # otherwise the tower could not have gates
    cut = cut.to(weight.device, weight.dtype)
    whole = model.state_dict()
    tensors = {f"visual.{name}": tensor for name, tensor in image.tensors.items()} | text.tensors
    cut.load_state_dict(tensors | {name: whole[name] for name in ("logit_scale", "logit_bias") if name in whole})
    _copy_settings(model, cut)
    return cut, smaller


def describe_cut(config: Mapping[str, Any]) -> dict[str, TowerCut]:
    """Compare a cut model with the whole one, by side (``image`` and ``text``).

    Args:
        config: With ``compact_cfg``; its ``vision_cfg`` and ``text_cfg`` are those before the first cut.

    Raises:
        ConfigError: The dims cannot be read, or are not those of a model with this config.
    """
    vision, text = CLIPVisionCfg(**config["vision_cfg"]), CLIPTextCfg(**config["text_cfg"])
    assert isinstance(vision.layers, int)  # a ResNet has one number per stage, and cannot be cut
    wholes = {
        "image": KeptCounts(
            vision.width,
            (vision.width // vision.head_width,) * vision.layers,
            (int(vision.width * vision.mlp_ratio),) * vision.layers,
        ),
        "text": KeptCounts(text.width, (text.heads,) * text.layers, (int(text.width * text.mlp_ratio),) * text.layers),
    }
    cuts = dict(zip(("image", "text"), _read_both(config), strict=True))
    return {side: TowerCut(wholes[side], KeptCounts(dims.width, dims.heads, dims.units)) for side, dims in cuts.items()}


def _copy_settings(model: CLIP, cut: CLIP) -> None:
    """Let a cut model be trained as the whole one was: same mode, frozen weights and checkpointing of activations."""
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    for name, weight in cut.named_parameters():
        weight.requires_grad_(name not in frozen)
    for old, new in ((model, cut), (model.visual, cut.visual)):
        towers: Any = (old.transformer, new.transformer)
        towers[1].grad_checkpointing = towers[0].grad_checkpointing
    cut.train(model.training)


def _put_towers(model: CLIP, visual: nn.Module, text: Any) -> None:
    any_model: Any = model
    any_model.visual = visual
    set_text_tower(model, text)


def _read_both(config: Mapping[str, Any]) -> tuple[ImageDims, TextDims]:
    """Read the dims, and check that what the config says elsewhere is the same."""
    stored: Any = config[COMPACT]
    if not isinstance(stored, Mapping) or set(stored) != {"image", "text"}:  # pyright: ignore[reportUnknownArgumentType]
        raise ConfigError(message("compact_cfg has other parts", stored, '{"image": dims, "text": dims}', _AGAIN))
    image, text = read_dims(stored["image"]), read_dims(stored["text"])
    if not isinstance(image, ImageDims) or not isinstance(text, TextDims):
        raise ConfigError(message("compact_cfg has dims of the wrong side", (image.kind, text.kind), fix=_AGAIN))
    vision_cfg, text_cfg, embed_dim = config["vision_cfg"], config["text_cfg"], config["embed_dim"]
    side = vision_cfg.get("image_size", 224)
    wanted = {
        "image size": (tuple(side) if isinstance(side, list | tuple) else (side, side), image.image_size),
        "context length": (text_cfg.get("context_length", 77), text.context_length),
        "vocabulary": (text_cfg.get("vocab_size", 49408), text.vocab_size),
        "embed_dim": ((embed_dim, embed_dim), (image.embed_dim, text.embed_dim)),
    }
    for name, (said, cut) in wanted.items():
        if said != cut:
            raise ConfigError(message(f"compact_cfg is of another model: the {name} differs", cut, said, _AGAIN))
    return image, text
