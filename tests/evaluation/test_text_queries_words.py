"""Texts of evaluation by a language model that is asked for words: no corpus, and the rows that training saw."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from assets.errors import DataError
from assets.features import encoders
from assets.features.config import FeaturesConfig, parse_features
from assets.features.run import make_features
from assets.progress import Stage
from assets.text_rows import TextFacts, TextRows
from evaluation.text_queries import TEXT_QUERIES, Computing, TextQueries
from tests.assets.features.test_run import CAPTIONS, GERMAN, KEYS, MACHINE, write_folders
from tests.assets.language.toy_words import save_words_folder


@pytest.fixture
def model(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_words_folder(tmp_path / "toy")
    return tmp_path / "toy"


def config(model: Path) -> FeaturesConfig:
    entry = {
        "kind": "lexical",
        "dataset": "toy",
        "model": {"kind": "folder", "path": str(model)},
        "captions": ["caption", "de"],
        "vocabulary": {"common": 3, "corpus": True},
        "compute": "float32",
    }
    return parse_features(entry, "features.toy")


@pytest.fixture
def rows(tmp_path, model) -> TextRows:
    folders = write_folders(tmp_path, CAPTIONS, GERMAN)
    make_features("toy", config(model), folders, MACHINE)
    return TextRows(folders.out)


def queries(facts: TextFacts, stage: Stage) -> TextQueries:
    return TextQueries(facts.features or {}, Path("models/toy"), Computing(torch.device("cpu"), 1, stage))


def test_texts_of_training_get_the_rows_that_training_saw_and_others_rows_of_their_own(rows):
    trained = rows.rows(rows.join(pa.array(KEYS)))
    with Stage("test") as stage:
        texts = queries(rows.facts, stage)
        assert [(group.caption, group.facets) for group in texts.groups] == [
            ("caption", ("words",)),
            ("de", ("words",)),
        ]
        asked = [*(CAPTIONS[number] for number in (0, 1, 2, 3, 5)), "two trucks"]
        found = texts.rows(asked, 0, ["words"])[:, 0]
    np.testing.assert_allclose(found[:5], trained[:, 0], rtol=0, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=0, atol=1e-6)
    assert np.abs(found[5] - found[:5]).max(axis=1).min() > 1e-2


def test_a_second_reader_needs_no_model(rows, monkeypatch):
    with Stage("test") as stage:
        first = queries(rows.facts, stage).rows(["a dog", "x" * 500], 0, ["words"])
        assert any(TEXT_QUERIES.rglob("*.npz"))
        monkeypatch.setattr(encoders, "load_language_model", None)
        again = queries(rows.facts, stage)
        assert np.array_equal(again.rows(["a dog", "x" * 500], 0, ["words"]), first)
        assert again.count_cut(["a dog", "x" * 500], 0, ["words"]) == 1


def test_another_model_than_that_of_training_is_refused(rows, model):
    other = save_words_folder(model)
    with torch.no_grad():
        other.model.embed_tokens.weight.add_(0.1)
    other.save_pretrained(model)
    with Stage("test") as stage, pytest.raises(DataError, match=r"another encoder \(model_digest differs\)"):
        queries(rows.facts, stage).rows(["a dog"], 0, ["words"])
