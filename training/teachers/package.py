"""The folder of a finished teacher: its models as exports, and perhaps what they say of the training pairs.

``teacher.json`` lists the models in the order of their columns in the rows; ``models/N`` are their exports; ``rows``
is there with a cache, see ``rows.py``. Nothing outside the folder is needed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assets.atomic import write_json
from assets.errors import DataError, message
from assets.manifest import MANIFEST, read_manifest
from training.teachers.config import CacheConfig

KIND = "teacher"
FACTS = "teacher.json"
MODELS = "models"
ROWS = "rows"
MAKE = 'run "dvc repro teach"'


@dataclass(frozen=True, slots=True)
class TeacherModel:
    """One model of a teacher.

    Attributes:
        folder: Its export.
        embed_dim: D.
        logit_scale: What its cosines are multiplied by; exponentiated.
        image_size: Side of its pictures in pixels.
        facts: What it is: kind, version and names.
    """

    folder: Path
    embed_dim: int
    logit_scale: float
    image_size: int
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TeacherPackage:
    """A finished teacher.

    Attributes:
        folder: Where it lies.
        models: One, or those of an ensemble.
        cache: Which views the rows are about; None where there are no rows.
    """

    folder: Path
    models: tuple[TeacherModel, ...]
    cache: CacheConfig | None


def read_package(folder: Path) -> TeacherPackage:
    """Read what a finished teacher is; neither weights nor rows are opened.

    Args:
        folder: Published by the stage ``teach``.

    Raises:
        DataError: The folder is missing, unfinished, of another kind, or damaged.
    """
    if not (folder / MANIFEST).is_file():
        raise DataError(message(f"{folder} holds no finished teacher", fix=MAKE))
    read_manifest(folder, KIND)
    try:
        facts: dict[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        models = tuple(_model(folder, told) for told in facts["models"])
        cache = None if facts["cache"] is None else CacheConfig.model_validate_json(json.dumps(facts["cache"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        text = " ".join(str(error).split())[:300]
        raise DataError(message(f"{folder / FACTS} is not readable ({text})", fix=MAKE)) from error
    if not models:
        raise DataError(message(f"{folder / FACTS} lists no model", fix=MAKE))
    for model in models:
        if not model.folder.is_dir():
            raise DataError(message(f"{model.folder} is missing, which {FACTS} lists", fix=MAKE))
    return TeacherPackage(folder, models, cache)


def _model(folder: Path, told: Mapping[str, Any]) -> TeacherModel:
    place = folder / str(told["folder"])
    return TeacherModel(
        place, int(told["embed_dim"]), float(told["logit_scale"]), int(told["image_size"]), dict(told["facts"])
    )


def write_package(folder: Path, models: Sequence[TeacherModel], cache: CacheConfig | None) -> None:
    """Write ``teacher.json``; the exports it names must lie in the folder, and the caller writes the manifest.

    Args:
        folder: The coming package.
        models: In the order of their columns.
        cache: Which views the rows are about; None for no rows.
    """
    told = [
        {
            "folder": model.folder.relative_to(folder).as_posix(),
            "embed_dim": model.embed_dim,
            "logit_scale": model.logit_scale,
            "image_size": model.image_size,
            "facts": dict(model.facts),
        }
        for model in models
    ]
    shown = None if cache is None else cache.model_dump(mode="json")
    write_json(folder / FACTS, {"models": told, "cache": shown})


def check_data(package_manifest: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
    """Refuse a teacher that was asked about another version of the data set.

    Args:
        package_manifest: The manifest of its folder.
        inputs: Version of ``raw`` and of ``valid``.

    Raises:
        DataError: The manifest names other versions.
    """
    made_of: Mapping[str, str] = package_manifest["inputs"]
    for name, version in inputs.items():
        if made_of.get(name) != version:
            what = f"teacher {package_manifest['name']} was made from another version of the data set ({name} differs)"
            raise DataError(message(what, made_of.get(name, "none"), version, MAKE))
