"""The stage with a toy language model: captions and models that go wrong, and what another cache must be made of."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from assets.errors import ConfigError, DataError
from assets.features import run
from assets.features.config import FeaturesConfig, parse_features
from assets.features.run import Folders, make_features
from assets.manifest import read_manifest, write_manifest
from assets.text_rows import TextRows
from tests.assets.features.test_run import CAPTIONS, KEYS, MACHINE, write_folders
from tests.assets.language.toy_llama import save_folder

LONG = "word " * 10_000
NASTY = [
    "\U0001f469\u200d\U0001f680\U0001f34e",
    "\u4e00\u53ea\u7ea2\u82f9\u679c",
    "\u062a\u0641\u0627\u062d\u0629 \u202eapple",
    "a\0b <|end|>",
    "rejected",
    LONG,
]


@pytest.fixture
def model(tmp_path) -> Path:
    """A folder with a model whose tokenizer has no token for padding."""
    save_folder(tmp_path / "toy")
    return tmp_path / "toy"


def config(model: Path, **values) -> FeaturesConfig:
    texts = [{"caption": "caption", "facets": ["overall", "atmosphere"]}]
    source = {"kind": "folder", "path": str(model)}
    entry = {"kind": "facets", "dataset": "toy", "model": source, "prompts": "brief", "texts": texts}
    return parse_features({**entry, "compute": "float32", "max_caption_tokens": 64, **values}, "features.toy")


def rows_of(folders: Folders) -> np.ndarray:
    found = TextRows(folders.out)
    return found.rows(found.join(pa.array(KEYS)))


def test_captions_of_any_script_and_length_get_rows_of_their_own(tmp_path, model, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("clipfoundry"), "propagate", True)
    folders = write_folders(tmp_path, NASTY, CAPTIONS)
    make_features("toy", config(model), folders, MACHINE)
    rows = rows_of(folders).reshape(-1, 32)
    assert rows.shape == (10, 32) and len(np.unique(rows.round(3), axis=0)) == 10
    assert "features@toy: 1 captions were longer than the limit and have been cut" in caplog.text


def test_a_limit_beyond_the_model_is_refused_before_any_caption_is_embedded(tmp_path, model):
    folders = write_folders(tmp_path, NASTY, CAPTIONS)
    with pytest.raises(
        ConfigError, match="toy attends to 2048 tokens: the limit of captions is too high, got 4096, want"
    ):
        make_features("toy", config(model, max_caption_tokens=4096), folders, MACHINE)
    assert not folders.work.exists()


def test_a_model_whose_answers_are_not_finite_stops_the_stage_with_a_caption(tmp_path, model):
    broken = save_folder(model)
    with torch.no_grad():
        broken.model.layers[0].self_attn.q_proj.weight[0, 0] = float("nan")
    broken.save_pretrained(model)
    folders = write_folders(tmp_path, CAPTIONS, CAPTIONS)
    with pytest.raises(DataError, match=r"toy in torch.float32 has no finite answer to \d captions, such as '.*'; use"):
        make_features("toy", config(model), folders, MACHINE)
    assert not folders.out.exists()


def another_tokenizer(folders: Folders, model: Path) -> FeaturesConfig:
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Lowercase"}
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    return config(model)


def another_model(folders: Folders, model: Path) -> FeaturesConfig:
    other = save_folder(model)
    with torch.no_grad():
        other.model.embed_tokens.weight.add_(0.1)
    other.save_pretrained(model)
    return config(model)


def other_prompts(folders: Folders, model: Path) -> FeaturesConfig:
    return config(model, prompts="full")


def other_captions(folders: Folders, model: Path) -> FeaturesConfig:
    write_manifest(folders.raw, "raw", "toy", {"seed": 1}, {"samples": 6}, {}, "test")
    return config(model)


@pytest.mark.parametrize("change", [another_tokenizer, another_model, other_prompts, other_captions])
def test_neither_a_finished_nor_an_unfinished_cache_serves_for_another(tmp_path, model, monkeypatch, change):
    monkeypatch.setattr(run, "CHUNK", 1)
    folders = write_folders(tmp_path, CAPTIONS, CAPTIONS)
    make_features("toy", config(model), folders, MACHINE)
    finished = read_manifest(folders.out)

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run, "publish_folder", stopped)
        make_features("toy", config(model), replace(folders, out=tmp_path / "stopped"), MACHINE)
    changed = change(folders, model)
    make_features("toy", changed, folders, MACHINE)
    assert read_manifest(folders.out) != finished
    rows = rows_of(folders)
    make_features("toy", changed, replace(folders, out=tmp_path / "fresh", work=tmp_path / "nothing"), MACHINE)
    assert np.array_equal(rows, rows_of(replace(folders, out=tmp_path / "fresh")))
