"""Begin as another model: take over all of its weights, or those of a smaller tower that is cut out of each of its own.

The scale and bias of the logits belong to no tower; a student that is cut out of a model begins with fresh ones.
"""

from typing import Any, NamedTuple

import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor, nn

from assets.errors import ConfigError, message
from training.config import StartConfig
from training.models.dense_export import DenseExport
from training.models.export_files import COMPACT, FROZEN_TEXT
from training.models.inheritance import Inherited, Tower, image_tower, inherit_tower, text_tower
from training.models.timm_tower import TimmPatchTower
from training.models.towers_config import StartTowers, Towers


class Began(NamedTuple):
    """What a model began with.

    Attributes:
        facts: Per tower, what was taken, JSON-serialisable; empty where it was everything.
        warnings: What the user should hear of.
    """

    facts: dict[str, Any]
    warnings: tuple[str, ...]


_SIDES = {"image": image_tower, "text": text_tower}


@torch.no_grad()
def begin_as(
    model: nn.Module, config: dict[str, Any], source: DenseExport, towers: Towers, start: StartConfig
) -> Began:
    """Give a freshly built model the weights that its recipe wants it to begin with.

    Args:
        model: Changed in place.
        config: Its config.
        source: The model that the weights come from.
        towers: The recipe's.
        start: The recipe's rules.

    Raises:
        ConfigError: The model is no sub-network of its source, or sees other pixels.
    """
    _check_pixels(source)
    if isinstance(towers, StartTowers):
        model.load_state_dict(source.model.state_dict())
        return Began({}, ())
    if COMPACT in source.config:
        what = "start: a model with cut towers has other heads and units in each layer, so no smaller one is part of it"
        raise ConfigError(message(what, fix="set towers to {kind: start}, or start as the model before it was cut"))
    wanted = _SIDES if start.towers == "both" else {start.towers: _SIDES[start.towers]}
    if "text" in wanted and FROZEN_TEXT in config:
        raise ConfigError(message("start: text is frozen and inherits nothing", fix='set start.towers to "image"'))
    if "image" in wanted and isinstance(model.get_submodule("visual"), TimmPatchTower):
        fix = "leave start out: towers.vision.weights says what the tower begins as"
        raise ConfigError(message("start: an image tower of timm is no part of another model", fix=fix))
    own, theirs = dict(model.state_dict()), source.model.state_dict()
    facts: dict[str, Any] = {}
    warnings: list[str] = []
    for side, tower in wanted.items():
        inherited = _inherit(side, tower(theirs, source.config), tower(own, config), start)
        own |= inherited.tensors
        facts[side] = inherited.facts
        warnings += [f"{side} tower: {text}" for text in inherited.warnings]
    model.load_state_dict(own)
    return Began(facts, tuple(warnings))


def _inherit(side: str, theirs: Tower, own: Tower, start: StartConfig) -> Inherited:
    if side == "image" and not any(name.startswith("visual.proj") for name in own.tensors):
        theirs = _without_projection(theirs)  # a head takes its place where text is frozen
    try:
        return inherit_tower(theirs, own, start.depth, start.width)
    except ConfigError as error:
        raise ConfigError(f"start: {side} tower: {error}") from error


def _without_projection(tower: Tower) -> Tower:
    kept: dict[str, Tensor] = {name: value for name, value in tower.tensors.items() if name != "visual.proj"}
    return Tower(kept, tower.head_width, tower.behaviour)


def _check_pixels(source: DenseExport) -> None:
    """Refuse a model that was trained on pixels with another mean or deviation than ours."""
    found = source.preprocess["mean"], source.preprocess["std"]
    wanted = OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
    if tuple(map(tuple, found)) != wanted:
        what = "start: the model was trained on pixels with another mean and deviation"
        raise ConfigError(message(what, found, wanted, "start as a model that was trained here or by OpenAI's rule"))
