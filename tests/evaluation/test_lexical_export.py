"""A model over words, the whole way: features by the toy Llama, an export, every evaluator that looks at words."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from assets.config import MachineConfig
from assets.features.config import parse_features
from assets.features.run import Folders, make_features
from assets.manifest import write_manifest
from assets.progress import Stage
from assets.section import parse
from assets.text_rows import TextFacts, TextRows
from evaluation.encoder import load_encoder
from evaluation.evaluate import evaluate
from evaluation.onnx_export import LIMIT, load_towers, verify, write_tower
from tests.assets.language.toy_llama import save_folder
from tests.evaluation.squares import EVALUATION, RUNS, write_params
from training.models.build import build_model, export_model, model_config
from training.models.towers_config import CustomTowers

MACHINE = MachineConfig(workers=0, threads=1, device="cpu", tensorboard=False)
TOWERS = {
    "kind": "custom",
    "image_size": 32,
    "vision": {"kind": "vit", "layers": 1, "width": 32, "patch_size": 8, "head_width": 16, "mlp_ratio": 2.0},
    "text": {"kind": "frozen", "center": False},
    "head": {"kind": "lexical", "width": 12, "text_rank": 2},
}
EVALUATORS = {
    "zero_shot": {"templates": ["a {name} square"]},
    "retrieval": {"examples": 1, "candidates": 2},
    "words": {"at_most": 3},
    "localisation": {},
}


def entry(root: Path) -> dict:
    return {
        "kind": "lexical",
        "dataset": "squares",
        "model": {"kind": "folder", "path": str(root / "toy")},
        "vocabulary": {"common": 20, "corpus": False, "min_letters": 1},
        "prompt": {"example": "a man", "before": 'In "', "after": '" the words are:', "word_start": False},
        "compute": "float32",
    }


def write_export(folder: Path, facts: TextFacts) -> Path:
    """An untrained model."""
    folder.mkdir()
    config = model_config(parse(CustomTowers, TOWERS, "towers"), facts)
    torch.manual_seed(0)
    model = build_model(config, None, facts.lexicon)
    export_model(model.state_dict(), config, folder, facts.lexicon)
    write_manifest(folder, "model", "lexvla", {}, {}, {}, "0")
    return folder


@pytest.fixture(scope="module")
def project(squares, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("lexical")
    save_folder(root / "toy")
    data = squares / "data"
    folders = Folders(data / "raw/squares", data / "valid/squares", root / "features", root / "work")
    make_features("toy", parse_features(entry(root), "features.toy"), folders, MACHINE)
    write_export(root / "model", TextRows(root / "features").facts)
    write_params(root / "params.yaml", RUNS, evaluation={**EVALUATION, "evaluators": EVALUATORS})
    return root


def test_both_sides_are_vectors_over_the_words_of_the_features(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    encoder = load_encoder(project / "model", MACHINE, 8, Stage("test"))
    lexicon = TextRows(project / "features").facts.lexicon
    assert encoder.text.lexicon.version == lexicon.version and encoder.grid == (4, 4)
    texts = encoder.text.encode(["a red square", "a dog"])
    assert texts.shape == (2, len(lexicon.words)) and (texts >= 0).all()
    images = next(encoder.encode_images([torch.rand(3, 3, 32, 32)])).image_features
    for vectors in (texts, images):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_training_caption_gets_the_vector_of_its_row(squares, project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from training.data.pairs import load_pairs

    pairs = load_pairs(squares / "data/raw/squares", squares / "data/valid/squares")
    rows = TextRows(project / "features")
    model = load_encoder(project / "model", MACHINE, 8, Stage("test"))
    caption = pairs.captions[0].as_py()
    row = rows.rows(rows.join(pairs.keys)[:1])[:, 0]
    from training.models.frozen_export import load_export

    with torch.inference_mode():
        expected = load_export(project / "model").model.encode_rows(torch.from_numpy(row)).numpy()
    np.testing.assert_allclose(model.text.encode([caption]), expected, atol=1e-5)


def test_evaluators_look_at_words_and_the_bytes_are_the_same_again(squares, project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = squares / "data"
    arguments = (project / "params.yaml", project / "model", data / "raw/squares", data / "valid/squares")
    for out in ("one", "two"):
        evaluate("lexvla", *arguments, tmp_path / out)
    files = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}
    metrics = json.loads(files["metrics.json"])
    words = next(iter(metrics["words"].values()))
    assert words["num_words"] == 20 and 0 < words["num_active_image"] < 20
    assert {"image_to_text_r1", "caption_precision_3", "num_top_word_share_image"} < words.keys()
    table = pq.read_table(tmp_path / "one/active_words.parquet").to_pylist()
    assert {row["side"] for row in table} == {"image", "text"}


@pytest.mark.slow
def test_the_image_side_goes_to_onnx(project, tmp_path):
    towers = load_towers(project / "model")
    write_tower(towers.image, tmp_path / "image.onnx")
    assert verify(towers.image, tmp_path / "image.onnx", 1) < LIMIT
    assert towers.text is None
