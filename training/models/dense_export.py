"""Load an export that has both towers, whole or cut: the one way that knows either layout.

``open_clip_config.json`` with open_clip's weights is what open_clip itself loads. A model whose towers were cut to
other numbers of heads and units in each layer does not fit that config; ``clipfoundry_config.json`` says its dims.
Shapes are strict here in both layouts, where open_clip would resize positions that do not fit.
"""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import torch
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from assets.errors import ConfigError, DataError, message
from training.models.compact import build_compact
from training.models.export_files import (
    COMPACT,
    CONFIG_FILE,
    FROZEN_TEXT,
    OWN_CONFIG_FILE,
    WEIGHTS_FILE,
    own_config_has,
    read_export_config,
)

_AGAIN = 'export the model anew, for a run with "dvc repro pretrain"'


class DenseExport(NamedTuple):
    """An export in memory.

    Attributes:
        model: With ``encode_image``, ``encode_text`` and ``logit_scale``; in evaluation mode, fp32, on the CPU.
        config: The model's, as :func:`training.models.build.build_model` and its neighbours take it.
        preprocess: All of open_clip's ``preprocess_cfg``, complete: ``size`` as the model takes it (one number or
            height and width), ``mode``, ``mean``, ``std``, ``interpolation``, ``resize_mode``, ``fill_color``.
    """

    model: nn.Module
    config: dict[str, Any]
    preprocess: dict[str, Any]


def is_compact_export(folder: Path) -> bool:
    """Say whether a model folder holds a model whose towers were cut.

    Raises:
        DataError: Its config cannot be read.
    """
    return own_config_has(folder, COMPACT)


def load_dense(folder: Path) -> DenseExport:
    """Load an export with both towers.

    Args:
        folder: The model folder.

    Raises:
        DataError: A file is missing, config and weights do not fit, or the text is frozen.
    """
    file = next((folder / name for name in (OWN_CONFIG_FILE, CONFIG_FILE) if (folder / name).is_file()), None)
    if file is None or not (folder / WEIGHTS_FILE).is_file():
        found = ", ".join(sorted(path.name for path in folder.iterdir())) if folder.is_dir() else "no such folder"
        wanted = f"{WEIGHTS_FILE} with {CONFIG_FILE} or {OWN_CONFIG_FILE}"
        raise DataError(message(f"{folder} holds no model", found, wanted, _AGAIN))
    stored = read_export_config(file)
    config: dict[str, Any] = stored["model_cfg"]
    if FROZEN_TEXT in config:
        fix = "load it with training.models.frozen_export.load_export"
        raise DataError(message(f"the export in {folder} has frozen text, and no text tower", fix=fix))
    try:
        with torch.random.fork_rng(devices=[]):  # the random weights are overwritten, and cost the caller no draws
            model = build_compact(config) if file.name == OWN_CONFIG_FILE else _build_whole(folder)
        model.load_state_dict(load_file(folder / WEIGHTS_FILE))
        preprocess = _preprocess(model, stored.get("preprocess_cfg") or {})
    except (SafetensorError, ConfigError, AttributeError, RuntimeError, ValueError, KeyError, TypeError) as error:
        text = " ".join(str(error).split())[:300]
        raise DataError(message(f"the export in {folder} does not load ({text})", fix=_AGAIN)) from error
    return DenseExport(model.float().eval(), config, preprocess)


def _build_whole(folder: Path) -> nn.Module:
    # the export holds every weight: a pretrained tower named in its config must not be fetched first
    source = f"local-dir:{folder}"
    logging.disable(logging.WARNING)  # it warns of random weights, which load_dense replaces
    try:
        return open_clip.create_model(source, load_weights=False, pretrained_text=False, precision="fp32")
    finally:
        logging.disable(logging.NOTSET)


def _preprocess(model: Any, stored: dict[str, Any]) -> dict[str, Any]:
    defaults = asdict(PreprocessCfg())
    return merge_preprocess_dict(merge_preprocess_dict(defaults, stored), {"size": model.visual.image_size})
