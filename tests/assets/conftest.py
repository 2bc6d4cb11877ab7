"""A small emoji-scenes data set: its config, and the folder that ingest makes of it."""

import json
from pathlib import Path

import pytest

from assets.ingest import ingest
from assets.sources.emoji_scenes.config import EmojiScenesConfig, SplitSizes

SIZES = {
    "train": 120,
    "test": 20,
    "test_style": 4,
    "test_pairs": 20,
    "zero_shot_per_class": 2,
    "zero_shot_style_per_class": 1,
}


def make_config(**changes) -> EmojiScenesConfig:
    sizes = SplitSizes(**{**SIZES, **changes.pop("sizes", {})})
    values = {"seed": 7, "image_size": 64, "num_concepts": 60, "num_classes": 6, **changes}
    return EmojiScenesConfig(kind="emoji_scenes", sizes=sizes, **values)


def make_raw(config: EmojiScenesConfig, out: Path, work: Path, workers: int = 0, per_shard: int = 40) -> Path:
    ingest("small", config, config.model_dump(mode="json"), per_shard, out, work, workers)
    return out


@pytest.fixture(scope="session")
def emoji_config():
    """Return a function that makes the config of a small data set with changes."""
    return make_config


@pytest.fixture(scope="session")
def emoji_ingest():
    """Return a function that ingests a config: (config, out, work, workers, per_shard)."""
    return make_raw


@pytest.fixture(scope="session")
def emoji_raw(tmp_path_factory) -> Path:
    """The folder ``data/raw/small``; do not write into it."""
    root = tmp_path_factory.mktemp("emoji")
    return make_raw(make_config(), root / "raw", root / "work")


@pytest.fixture(scope="session")
def emoji_facts(emoji_raw) -> dict:
    """The content of its dataset.json."""
    return json.loads((emoji_raw / "dataset.json").read_text())
