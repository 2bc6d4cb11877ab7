"""Evaluation and embedding of a model whose towers were cut: the same ways as with open_clip's exports."""

import json

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from assets.config import MachineConfig
from assets.errors import DataError
from assets.manifest import write_manifest
from assets.progress import Stage
from evaluation.encoder import load_encoder
from evaluation.evaluate import evaluate
from tests.evaluation.squares import EVALUATION, MODEL, RUNS, write_model, write_params
from training.models.build import export_model
from training.models.compact import compact_model
from training.models.dense_export import load_dense
from training.models.gated_tower import tower_sizes
from training.models.gates import GateValues

MACHINE = MachineConfig(workers=0, threads=1, device="cpu", tensorboard=False)
CAPTIONS = ["a red square on blue", "a square", "word " * 100]


def gates_of(tower, keep: float) -> GateValues:
    """Close all but a share of the width and of the units."""
    sizes = tower_sizes(tower)
    gates = GateValues(
        torch.ones(sizes.width), torch.ones(sizes.layers, sizes.heads), torch.ones(sizes.layers, sizes[3])
    )
    gates.hidden[int(sizes.width * keep) :] = 0
    gates.units[:, int(sizes[3] * keep) :] = 0
    return gates


def write_cut(folder, keep: float = 0.75):
    """The model that ``write_model`` writes, cut."""
    torch.manual_seed(0)
    model = open_clip.CLIP(**MODEL)
    small, config = compact_model(model, MODEL, gates_of(model.visual, keep), gates_of(model, keep))
    folder.mkdir()
    export_model({name: tensor.contiguous() for name, tensor in small.state_dict().items()}, config, folder)
    write_manifest(folder, "model", "a", {}, {}, {}, "0")
    return small.eval()


def test_both_sides_are_those_of_the_model(tmp_path):
    small = write_cut(tmp_path / "cut")
    encoder = load_encoder(tmp_path / "cut", MACHINE, 2, Stage("test"))
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    found = next(encoder.encode_images([encoder.preprocess_array(picture)[None]]))
    shown = PreprocessCfg(**load_dense(tmp_path / "cut").preprocess)
    pixels = image_transform_v2(shown, is_train=False)(Image.fromarray(picture))[None]
    tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=small.context_length)
    with torch.no_grad():
        image, text = small.encode_image(pixels, normalize=True), small.encode_text(tokenizer(CAPTIONS), normalize=True)
        pooled = small.visual._pool(small.visual.transformer(small.visual._embeds(pixels)))[0]
    np.testing.assert_allclose(found.image_features, image.numpy(), atol=1e-6)
    np.testing.assert_allclose(found.pooled_features, pooled.numpy(), atol=1e-5)
    np.testing.assert_allclose(encoder.text.encode(CAPTIONS), text.numpy(), atol=1e-6)
    assert found.pooled_features.shape[1] < MODEL["vision_cfg"]["width"]
    assert encoder.text.count_cut(CAPTIONS) == 1


def test_a_model_of_which_nothing_is_cut_is_scored_like_the_whole_one(squares, tmp_path):
    write_cut(tmp_path / "cut", keep=1.0)
    write_model(tmp_path / "whole")
    config = json.loads((tmp_path / "whole/open_clip_config.json").read_text())
    own = tmp_path / "cut/clipfoundry_config.json"
    stored = json.loads(own.read_text())
    own.write_text(json.dumps(stored | {"preprocess_cfg": config["preprocess_cfg"]}))
    write_manifest(tmp_path / "cut", "model", "a", {}, {}, {}, "0")
    write_params(tmp_path / "params.yaml", RUNS, evaluation=EVALUATION)
    data, scores = squares / "data", []
    for name in ("whole", "cut"):
        folders = data / "raw/squares", data / "valid/squares"
        evaluate("a", tmp_path / "params.yaml", tmp_path / name, *folders, tmp_path / f"{name}-scores")
        scores.append(json.loads((tmp_path / f"{name}-scores/metrics.json").read_text()))
    whole, cut = (one["zero_shot"]["in_domain"] for one in scores)
    assert cut == pytest.approx(whole, abs=0.06)  # one picture of 18, whose best classes may be equal but for rounding


def test_a_folder_with_damaged_weights_is_refused(tmp_path):
    write_cut(tmp_path / "cut")
    weights = tmp_path / "cut/open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(DataError, match="does not load"):
        load_encoder(tmp_path / "cut", MACHINE, 2, Stage("test"))
    with pytest.raises(DataError, match="does not load"):
        load_dense(tmp_path / "cut")
