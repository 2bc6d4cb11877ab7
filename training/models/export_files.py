"""The files of an exported model, apart from what builds one: reading an export takes no training code."""

import json
from pathlib import Path
from typing import Any

from assets.errors import DataError, message

WEIGHTS_FILE = "open_clip_model.safetensors"
CONFIG_FILE = "open_clip_config.json"
OWN_CONFIG_FILE = "clipfoundry_config.json"
"""Stands in place of open_clip's where that could not build the model: no text tower, or towers that were cut."""
FROZEN_TEXT = "frozen_text_cfg"
"""Key in the config of a model whose text is frozen."""
LEXICAL = "lexical_cfg"
"""Key in the config of a model with frozen text whose features are words; the words lie beside it."""
COMPACT = "compact_cfg"
"""Key in the config of a model whose towers were cut; holds ``{"image": dims, "text": dims}``."""


def own_config_has(folder: Path, part: str) -> bool:
    """Say whether a folder has a config of ours, and that has such a part.

    Args:
        folder: The model folder.
        part: :data:`FROZEN_TEXT` or :data:`COMPACT`.

    Raises:
        DataError: There is such a config, and it cannot be read.
    """
    return (folder / OWN_CONFIG_FILE).is_file() and part in read_export_config(folder / OWN_CONFIG_FILE)["model_cfg"]


def read_export_config(file: Path) -> dict[str, Any]:
    """Read the config of an export, of either name.

    Args:
        file: The config.

    Returns:
        ``model_cfg`` and, where there is one, ``preprocess_cfg``.

    Raises:
        DataError: It is no JSON, or lacks ``model_cfg``.
    """
    try:
        config: Any = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(config["model_cfg"], dict):
            raise TypeError("model_cfg is not a mapping")
    except (ValueError, KeyError, TypeError) as error:
        text = " ".join(str(error).split())[:300]
        raise DataError(message(f"{file} is no config of a model ({text})", fix="export the model anew")) from error
    return config
