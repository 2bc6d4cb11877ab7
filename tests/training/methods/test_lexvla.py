"""LexVLA as a method: its objective, what it trains and spares, resuming, the export, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from assets.errors import ConfigError, DataError
from assets.language.lexicon import CODEBOOK, VOCABULARY
from assets.manifest import verify_manifest
from tests.training.engine.rank_cases import global_batch
from tests.training.frozen_text import ENTRY, lexical_towers, lexicon, lexvla, text_facts, towers, write_features
from training.config import load_recipe
from training.engine.gather import GatheredFeatures
from training.losses.info_nce import info_nce_loss
from training.losses.lexical import overuse_penalty
from training.methods.lexvla import LexVla, LexVlaConfig
from training.models.build import build_method
from training.models.frozen_export import load_export
from training.pretrain import Paths, pretrain

CASE = np.load(Path(__file__).parents[2] / "fixtures/lexvla/case_a.npz")
WHOLE = slice(0, 16)


def recipe_of(params, recipe: dict):
    return load_recipe(params(**{f"recipes.clip.{name}": value for name, value in recipe.items()}), "clip")


def method_of(params, recipe: dict, facts=None):
    return build_method(recipe_of(params, recipe), 0, facts or text_facts())[0]


def plain(**changes) -> dict:
    """LexVLA with these penalties only."""
    method = {"kind": "lexvla", "overuse_image": 0, "overuse_text": 0, "warmup_steps": 0, **changes}
    return {**lexvla(), "method": method}


def test_the_objective_of_the_reference(params):
    method = method_of(params, plain()).double()
    weights = {"overuse_image": float(CASE["obj_lambda_I"]), "overuse_text": float(CASE["obj_lambda_T"])}
    method.config = LexVlaConfig(kind="lexvla", warmup_steps=int(CASE["obj_T"]), **weights)
    with torch.no_grad():
        method.model.logit_scale.fill_(float(CASE["con_log_scale"]))
    images, texts = (torch.from_numpy(CASE[f"con_s_{side}"]).clone().requires_grad_() for side in ("img", "txt"))
    features = GatheredFeatures({"image_features": images, "text_features": texts}, slice(0, len(images)))
    loss = sum(method.losses(features, int(CASE["obj_step"]) - 1).losses.values())
    assert loss.item() == pytest.approx(float(CASE["obj_total"]), abs=1e-10)
    loss.backward()
    assert np.abs(images.grad.numpy() - CASE["obj_grad_img"]).max() < 1e-10
    assert np.abs(texts.grad.numpy() - CASE["obj_grad_txt"]).max() < 1e-10


def test_the_scale_is_clamped_as_the_reference_does(params):
    method = method_of(params, plain())
    for value, wanted in zip(CASE["clamp_in"].tolist(), CASE["clamp_out"].tolist(), strict=True):
        with torch.no_grad():
            method.model.logit_scale.fill_(value)
        method.after_step(0)
        assert method.model.logit_scale.item() == pytest.approx(max(wanted, 0), abs=1e-6)


def test_without_penalties_it_is_twice_clip_on_the_same_towers(params):
    ours, clip = method_of(params, plain()), method_of(params, {**plain(), "method": {"kind": "clip"}})
    losses = [method.eval()(global_batch(0), 0).losses["contrastive_loss"] for method in (ours, clip)]
    assert losses[0].item() == pytest.approx(2 * losses[1].item(), rel=1e-6)


def test_one_permutation_of_the_words_changes_nothing(params):
    method = method_of(params, lexvla())
    features = method.encode(global_batch(0))
    order = torch.randperm(features["image_features"].shape[1])
    mixed = {name: vectors[:, order] for name, vectors in features.items()}
    one, other = (method.losses(GatheredFeatures(given, WHOLE), 9) for given in (features, mixed))
    for name, loss in one.losses.items():
        assert other.losses[name].item() == pytest.approx(loss.item(), rel=1e-5), name


def test_weights_rise_and_every_term_is_logged(params):
    method = method_of(params, lexvla())  # four steps of rise
    features = GatheredFeatures(method.encode(global_batch(0)), WHOLE)
    terms = [method.losses(features, step) for step in range(6)]
    overuse = overuse_penalty(features["image_features"]).item()
    shares = [(out.losses["overuse_image_loss"] / (0.1 * overuse)).item() for out in terms]
    assert shares == pytest.approx([1 / 16, 4 / 16, 9 / 16, 1, 1, 1], rel=1e-5)
    assert set(terms[0].losses) == {"contrastive_loss", "overuse_image_loss", "overuse_text_loss", "flops_image_loss"}
    assert {
        f"{name}_{side}"
        for name in ("overuse", "flops", "active_words", "top_word_share")
        for side in ("image", "text")
    } < set(terms[0].logs)
    expected = 2 * info_nce_loss(features["image_features"], features["text_features"], 1 / 0.07)
    assert terms[0].losses["contrastive_loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_groups_spare_codebook_and_correction_at_rates_of_their_own(params):
    method = method_of(params, plain(codebook_lr=0.5, text_lr=0.1))
    groups = [group for group in method.param_groups(0.1) if group.params]
    found = {name: (group.weight_decay, group.lr_scale) for group in groups for name, _ in group.params}
    assert set(found) == {name for name, p in method.named_parameters() if p.requires_grad}
    assert found["model.head.codebook"] == (0.0, 0.5)
    assert found["model.text_correction.up.weight"] == found["model.text_correction.down.weight"] == (0.0, 0.1)
    assert found["model.head.adapter.layers.0.weight"] == (0.1, 1.0)


def test_rates_of_zero_freeze(params):
    method = method_of(params, plain(codebook_lr=0, text_lr=0))
    trained = {name for name, p in method.named_parameters() if p.requires_grad}
    assert not any("codebook" in name or "text_correction" in name for name in trained)
    sum(method(global_batch(0), 0).losses.values()).backward()
    assert all(p.grad is not None for name, p in method.named_parameters() if name in trained)


def test_random_codebooks_are_the_runs_own_and_alike_on_both_sides(params):
    towers_ = lexical_towers(codebook="random")
    method = method_of(params, {**plain(), "towers": towers_})
    codebook = torch.from_numpy(method.lexicon.codebook)
    assert torch.equal(codebook, method.model.head.codebook) and torch.equal(codebook, method.model.text_codebook)
    assert not np.allclose(method.lexicon.codebook, lexicon().codebook)
    again = method_of(params, {**plain(), "towers": towers_})
    assert np.array_equal(again.lexicon.codebook, method.lexicon.codebook)


def started(params, toy_data, tmp_path, recipe: dict):
    write_features(toy_data, tmp_path / "features")
    budget = {"samples_seen": 128, "batch_size": 16}
    changes = {f"recipes.clip.{name}": value for name, value in {**recipe, "budget": budget}.items()}
    file = params(**changes, **{"features.toy": ENTRY, "runs.toy-s0.features": "toy"})
    raw, valid = toy_data
    return file, Paths(raw, valid, tmp_path / "model", tmp_path / "run", features=tmp_path / "features")


@pytest.mark.slow
def test_a_run_exports_its_words_and_loads_again(params, toy_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file, paths = started(
        params, toy_data, tmp_path, lexvla(towers={**lexical_towers(), "text": {"kind": "frozen", "center": True}})
    )
    pretrain("toy-s0", file, paths)
    assert verify_manifest(paths.out) == []
    export = load_export(paths.out)
    assert export.text.lexicon.version == lexicon().version
    assert np.array_equal(export.text.lexicon.codebook, lexicon().codebook)
    pixels = torch.rand(2, 3, 32, 32)
    images = export.encode_images(pixels)
    assert images.shape == (2, 20) and (images >= 0).all()
    texts = export.model.encode_rows(normalize(torch.randn(3, 24), dim=-1))
    assert torch.allclose(texts.norm(dim=-1), torch.ones(3), atol=1e-5)
    config = json.loads((paths.out / "clipfoundry_config.json").read_text())["model_cfg"]["lexical_cfg"]
    assert config["vocabulary"] == lexicon().version and config["text_scale"] < lexicon().scale


@pytest.mark.slow
def test_an_export_with_other_words_is_refused(params, toy_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file, paths = started(params, toy_data, tmp_path, lexvla())
    pretrain("toy-s0", file, paths)
    vocabulary = json.loads((paths.out / VOCABULARY).read_text())
    vocabulary["words"][0] = "another"
    (paths.out / VOCABULARY).write_text(json.dumps(vocabulary))
    with pytest.raises(DataError, match="vocabulary"):
        load_export(paths.out)
    (paths.out / CODEBOOK).unlink()
    with pytest.raises(DataError):
        load_export(paths.out)


@pytest.mark.parametrize(
    ("recipe", "facts", "told"),
    [
        ({**plain(), "towers": towers()}, None, "works with a head over words only"),
        (plain(), replace(text_facts(), lexicon=None), "wants features with a vocabulary"),
        ({**plain(), "towers": {**lexical_towers(), "embed_dim": 24}}, None, "number of words"),
        ({"method": plain()["method"]}, None, "frozen text only"),
        ({**plain(), "method": {"kind": "lexvla", "overuse_image": 0, "overuse_text": 0}}, None, "set it to 0"),
        ({**plain(), "towers": lexical_towers(kind="words")}, None, "tokens, pooled or lexical"),
    ],
)
def test_refused(params, recipe, facts, told):
    with pytest.raises(ConfigError, match=told):
        method_of(params, recipe, facts)


def test_the_class_of_the_table():
    assert LexVla.Config is LexVlaConfig and LexVla.needs_frozen_text
