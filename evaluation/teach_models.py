"""The models of a teacher as exports: written into its folder, and what their files say of them."""

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from safetensors import SafetensorError, safe_open

from assets.atomic import atomic_folder, publish_folder
from assets.errors import DataError, message
from evaluation.checkpoints import EmbeddingModel
from training.models.export_files import CONFIG_FILE, FROZEN_TEXT, OWN_CONFIG_FILE, WEIGHTS_FILE
from training.teachers.package import MODELS, TeacherModel


@dataclass(frozen=True, slots=True)
class ExportFacts:
    """What the files of an export say.

    Attributes:
        embed_dim: D.
        image_size: Side of its pictures in pixels, S.
        mean: Of its pixels, by channel.
        std: Likewise.
        logit_scale: The model's own, exponentiated.
        frozen_text: Whether it has no text tower.
    """

    embed_dim: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    logit_scale: float
    frozen_text: bool


def write_export(model: EmbeddingModel, folder: Path) -> ExportFacts:
    """Write a model as an export, unless an earlier attempt has, and read what it says.

    Args:
        model: The model.
        folder: Where it goes.

    Raises:
        DataError: The model does not load, or its files do not say what a teacher must.
    """
    if not folder.is_dir():
        with atomic_folder(folder) as partial:
            model.write(partial)
    return _read_facts(folder)


def _read_facts(folder: Path) -> ExportFacts:
    """Read an export's config, and its scale from the weights."""
    own = folder / OWN_CONFIG_FILE
    try:
        told: dict[str, Any] = json.loads((own if own.is_file() else folder / CONFIG_FILE).read_text(encoding="utf-8"))
        config: dict[str, Any] = told.get("model_cfg", told)
        shown: dict[str, Any] = told.get("preprocess_cfg", {})
        mean, std = shown.get("mean", OPENAI_DATASET_MEAN), shown.get("std", OPENAI_DATASET_STD)
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as weights:
            scale = math.exp(float(weights.get_tensor("logit_scale")))
        size = config["vision_cfg"]["image_size"]
        sides: set[int] = set(size) if isinstance(size, list) else {size}  # pyright: ignore[reportUnknownArgumentType]
        if len(sides) != 1:
            raise ValueError(f"its pictures are no squares but {size}")
        facts = ExportFacts(config["embed_dim"], sides.pop(), tuple(mean), tuple(std), scale, FROZEN_TEXT in config)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        text = " ".join(str(error).split())[:300]
        raise DataError(
            message(f"the teacher's export is not one to learn from ({text})", fix="make it anew")
        ) from error
    return facts


def place_models(package: Path, others: Sequence[TeacherModel], own: Path) -> list[Path]:
    """Put the exports of a teacher into its folder.

    Args:
        package: The coming package, without models.
        others: Those that are taken in; they are copied.
        own: The teacher's own; it is moved.

    Returns:
        Where they are, in the order of their columns.
    """
    places = [package / MODELS / str(number) for number in range(len(others) + 1)]
    for other, place in zip(others, places, strict=False):
        with atomic_folder(place) as partial:
            shutil.copytree(other.folder, partial, dirs_exist_ok=True)
    publish_folder(own, places[-1])
    return places
