"""The stage with a toy language model that is asked for words: rows, vocabulary and scale, whatever kills it."""

import os
import signal
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from assets.errors import ConfigError, DataError
from assets.features import run
from assets.features.config import FeaturesConfig, parse_features
from assets.features.encoders import Words
from assets.features.run import Folders, make_features
from assets.language.lexical_encoder import LexicalEncoder
from assets.language.lexical_prompt import LEXICAL_PROMPTS
from assets.language.lexicon import CODEBOOK, VOCABULARY, read_lexicon
from assets.language.model_files import load_language_model
from assets.language.model_source import FolderModel
from assets.manifest import verify_manifest
from assets.text_rows import TextRows
from assets.unit import unit
from tests.assets.features.test_run import CAPTIONS, KEYS, MACHINE, files_of, write_folders
from tests.assets.language.toy_words import save_words_folder

ACCEPTED = [CAPTIONS[number] for number in (0, 1, 2, 3, 5)]
OTHERS = ["the apple", "apple", "dogs", "dogs", "red dogs", "red red truck"]
SPELT_OUT = {"example": "Words of a dog: dog.\n", "before": "Words of ", "after": ":", "word_start": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "toy"
    save_words_folder(folder)
    return folder


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(run, "CHUNK", 2)


@pytest.fixture
def folders(tmp_path) -> Folders:
    return write_folders(tmp_path, CAPTIONS, OTHERS)


def config(model: Path, **values) -> FeaturesConfig:
    entry = {
        "kind": "lexical",
        "dataset": "toy",
        "model": {"kind": "folder", "path": str(model)},
        "vocabulary": {"common": 0, "corpus": True, "min_count": 1, "min_letters": 3},
        "compute": "float32",
    }
    return parse_features({**entry, **values}, "features.toy")


def rows_of(folders: Folders) -> np.ndarray:
    found = TextRows(folders.out)
    return found.rows(found.join(pa.array(KEYS)))


def states_of(model: Path, captions: list[str]) -> np.ndarray:
    loaded = load_language_model(FolderModel(kind="folder", path=model), Path("none"), torch.device("cpu"), "float32")
    return LexicalEncoder(loaded, LEXICAL_PROMPTS["list"]).encode(captions)


def test_rows_are_unit_states_and_the_vocabulary_lies_beside_them(folders, model):
    make_features("toy", config(model), folders, MACHINE)
    assert verify_manifest(folders.out) == []
    assert {VOCABULARY, CODEBOOK} <= files_of(folders.out).keys()
    states = states_of(model, ACCEPTED)
    np.testing.assert_allclose(rows_of(folders)[:, 0], unit(states), rtol=0, atol=1e-3)
    facts = TextRows(folders.out).facts
    assert facts.slots == (("caption", "words"),) and facts.lexicon is not None
    counts = dict(zip(facts.lexicon.words, facts.lexicon.counts, strict=True))
    assert counts == {"red": 2, "apple": 3, "green": 1, "lorry": 1, "bridge": 2, "truck": 1}  # a rejected pair has dogs
    # the mean is over distinct captions, of which "a red apple" is one
    scale = np.linalg.norm(states[[0, 1, 2, 4]], axis=1).mean()
    assert facts.lexicon.scale == pytest.approx(scale, rel=1e-5)
    assert facts.lexicon.facts["model"] == "toy"


def test_codebook_rows_give_back_the_logits_of_the_model(folders, model):
    make_features("toy", config(model), folders, MACHINE)
    lexicon = read_lexicon(folders.out)
    loaded = load_language_model(FolderModel(kind="folder", path=model), Path("none"), torch.device("cpu"), "float32")
    prompt = LEXICAL_PROMPTS["list"]
    ids = loaded.tokenizer(f"{prompt.example}{prompt.before}{ACCEPTED[0]}.{prompt.after}", return_tensors="pt")
    with torch.no_grad():
        logits = loaded.model(**ids).logits[0, -1, list(lexicon.ids)].numpy()
    found = states_of(model, ACCEPTED[:1])[0] @ lexicon.codebook.T
    np.testing.assert_allclose(found, logits, rtol=0, atol=1e-3)


def test_captions_of_several_names_share_one_vocabulary(folders, model):
    make_features("toy", config(model, captions=["caption", "de"]), folders, MACHINE)
    facts = TextRows(folders.out).facts
    assert facts.slots == (("caption", "words"), ("de", "words")) and facts.lexicon is not None
    counts = dict(zip(facts.lexicon.words, facts.lexicon.counts, strict=True))
    assert counts == {"red": 3, "apple": 5, "green": 1, "lorry": 1, "bridge": 2, "truck": 2, "dogs": 2}
    distinct = sorted({*ACCEPTED, *OTHERS[:4], OTHERS[5]})
    scale = np.linalg.norm(states_of(model, distinct), axis=1).mean()
    assert facts.lexicon.scale == pytest.approx(scale, rel=1e-5)


def test_int8_rows_point_where_the_states_do(folders, model):
    make_features("toy", config(model, dtype="int8"), folders, MACHINE)
    near = (rows_of(folders)[:, 0] * unit(states_of(model, ACCEPTED))).sum(axis=1)
    assert near.min() > 0.9995
    assert TextRows(folders.out).facts.lexicon is not None


@pytest.mark.parametrize("prompt", ["quoted", SPELT_OUT], ids=["quoted", "spelt out"])
def test_another_prompt_makes_other_rows_and_another_version(folders, model, prompt):
    make_features("toy", config(model), folders, MACHINE)
    rows, version = rows_of(folders), read_lexicon(folders.out).version
    make_features("toy", config(model, prompt=prompt), folders, MACHINE)
    assert np.abs(rows_of(folders) - rows).max() > 1e-3
    assert read_lexicon(folders.out).version != version


@pytest.mark.parametrize(("place", "calls"), [("write_array", 1), ("write_array", 2), ("write_lexicon", 1)])
def test_a_stage_killed_anywhere_ends_in_the_same_bytes(folders, model, monkeypatch, place, calls):
    make_features("toy", config(model), replace(folders, out=folders.out / "whole"), MACHINE)
    cut, left, function = replace(folders, out=folders.out / "cut"), [calls], getattr(run, place)

    def killed(*values):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*values)

    with monkeypatch.context() as patch:
        patch.setattr(run, place, killed)
        child = get_context("fork").Process(target=make_features, args=("toy", config(model), cut, MACHINE))
        child.start()
        child.join()
    assert child.exitcode == -signal.SIGKILL and not cut.out.exists()
    make_features("toy", config(model), cut, MACHINE)
    assert files_of(cut.out) == files_of(folders.out / "whole")


def test_a_second_run_embeds_no_finished_chunk(folders, model, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run, "write_lexicon", stopped)
        make_features("toy", config(model), folders, MACHINE)
    monkeypatch.setattr(Words, "states", stopped)
    make_features("toy", config(model), folders, MACHINE)
    assert verify_manifest(folders.out) == []


def test_two_processes_give_the_same_bytes(folders, model, monkeypatch):
    make_features("toy", config(model), replace(folders, out=folders.out / "one"), MACHINE)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):  # the first process comes last, so that it has nobody to wait for
        monkeypatch.setenv("RANK", rank)
        make_features("toy", config(model), replace(folders, out=folders.out / "two"), MACHINE)
    assert files_of(folders.out / "one") == files_of(folders.out / "two")


def test_an_empty_vocabulary_is_refused_before_any_caption_is_embedded(folders, model):
    vocabulary = {"common": 0, "corpus": True, "min_count": 100}
    with pytest.raises(ConfigError, match="no word is left for the vocabulary"):
        make_features("toy", config(model, vocabulary=vocabulary), folders, MACHINE)
    assert not list(folders.work.rglob("*.npy"))


def test_a_damaged_vocabulary_is_named_when_rows_are_opened(folders, model):
    make_features("toy", config(model), folders, MACHINE)
    (folders.out / CODEBOOK).unlink()
    with pytest.raises(DataError, match=r"no readable vocabulary.json and codebook.npy"):
        TextRows(folders.out)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"prompt": "lists"}, "unknown prompt 'lists'.*list"),
        ({"captions": ["de", "de"]}, "captions named twice"),
        ({"vocabulary": {"common": 0, "corpus": False}}, "a vocabulary of no words"),
        ({"prompt": {**SPELT_OUT, "after": ": "}}, "ends in white space"),
        ({"max_caption_tokens": 2}, "max_caption_tokens"),
    ],
)
def test_a_wrong_value_is_named(values, fault):
    with pytest.raises(ConfigError, match=fault):
        config(Path("toy"), **values)
