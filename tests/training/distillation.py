"""Teachers for the toy data: exports of tiny models, run on every batch or asked once by the stage ``teach``."""

import copy
from pathlib import Path

import torch
from ruamel.yaml import YAML

from assets.config import SECTIONS
from assets.manifest import write_manifest
from evaluation import teach as stage
from tests.training.conftest import PARAMS
from training.models.build import build_model, export_model, model_config
from training.models.dense_export import DenseExport, load_dense
from training.models.towers_config import CustomTowers
from training.teachers.config import TeacherConfig
from training.teachers.source import OnlineModel, OnlineTeacher, TeacherSource, text_side

AFFINITY = {"kind": "distill_affinity"}
AUTO = {
    "kind": "distill_auto",
    "sparsity": 0.4,
    "sparsity_warmup_steps": 2,
    "compact_at": 11,
    "gates_lr": 1.2,
    "multipliers_lr": 0.5,
}
COLOUR = {"jitter": [0.4, 0.4, 0.4, 0.1], "jitter_probability": 1.0, "blur_probability": 0.0}
CROP = {"crop_area": [0.15, 0.5], "flip": 0.5, "colour": COLOUR}
CACHE = {"views": 3, "seed": 7, "crop": CROP}
ENTRY = {"dataset": "toy", "run": "big", "ensemble_with": "none", "logit_scale": 50, "cache": CACHE, "batch_size": 13}


def towers(**changes) -> dict:
    """Towers of the toy recipe; ``vision`` and ``text`` are changed key by key."""
    plain = copy.deepcopy(PARAMS["recipes"]["clip"]["towers"])
    for side in ("vision", "text"):
        plain[side] |= changes.pop(side, {})
    return plain | changes


BIG = towers(embed_dim=24, vision={"layers": 2, "width": 48}, text={"layers": 2, "width": 32, "heads": 4})


def write_model(folder: Path, spelt: dict | None = None, seed: int = 1, **settings) -> Path:
    """Publish a model of random weights that tell pictures and captions apart better than fresh ones.

    Args:
        folder: What is written.
        spelt: Its towers, ``BIG`` when None.
        seed: Of the weights.
        settings: Further ones of the model's config, such as ``quick_gelu``.
    """
    config = model_config(CustomTowers.model_validate(spelt or BIG)) | settings
    torch.manual_seed(seed)
    model = build_model(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "bias" not in name and "ln_" not in name and weight.ndim >= 2:
                weight.mul_(3)
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    folder.mkdir(parents=True)
    export_model(tensors, config, folder)
    write_manifest(folder, "model", folder.name, {}, {}, {}, "test")
    return folder


def online(*exports: DenseExport, scale: float = 50.0) -> TeacherSource:
    """Return a teacher that is run on every batch."""
    models = [
        OnlineModel(
            export.model,
            export.config["vision_cfg"]["image_size"],
            tuple(export.preprocess["mean"]),
            tuple(export.preprocess["std"]),
            text_side(export.config),
        )
        for export in exports
    ]
    widths = tuple(export.config["embed_dim"] for export in exports)
    return TeacherSource(widths, (scale,) * len(models), OnlineTeacher(models))


def export_of(folder: Path, spelt: dict | None = None, seed: int = 1, **settings) -> DenseExport:
    """Return such a model as it is loaded."""
    return load_dense(write_model(folder, spelt, seed, **settings))


def teach(toy_data: tuple[Path, Path], root: Path, name: str = "teacher", **changes) -> Path:
    """Run the stage ``teach`` on the toy data for the model in ``root/models/RUN`` and return what it published."""
    config = TeacherConfig.model_validate(ENTRY | changes)
    params = root / "teach.yaml"
    YAML().dump({section: {} for section in SECTIONS} | copy.deepcopy(PARAMS), params)
    other = None if config.ensemble_with == "none" else root / "teachers" / config.ensemble_with
    out = root / "teachers" / name
    folders = stage.Folders(*toy_data, root / "models" / config.run, other, out, root / "work")
    stage.teach(name, config, folders, params)
    return out
