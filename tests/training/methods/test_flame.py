"""FLAME and the other methods against frozen text: what is drawn, what learns, what is refused."""

import json

import numpy as np
import pytest
import torch

from assets.config import load_machine
from assets.errors import ConfigError, DataError
from assets.manifest import verify_manifest
from tests.training.engine.rank_cases import global_batch
from tests.training.episode_batches import PROTOCLIP
from tests.training.frozen_text import (
    ENTRY,
    RECIPES,
    change_manifest,
    flame,
    text_facts,
    towers,
    write_features,
)
from tests.training.view_batches import with_views
from training.config import load_recipe
from training.engine.clock import TrainClock
from training.engine.distributed import World
from training.engine.gather import GatheredFeatures
from training.engine.holdout import holdout_scores
from training.engine.step import Stepper
from training.losses.info_nce import info_nce_loss
from training.models.build import build_method
from training.models.frozen_export import load_export
from training.models.text_draws import draw_rows, draw_slots
from training.pretrain import Paths, pretrain

HERE = World(0, 1, torch.device("cpu"))
BUDGET = {"samples_seen": 160, "batch_size": 16}


def changes_of(recipe: dict) -> dict:
    return {f"recipes.clip.{name}": value for name, value in recipe.items()}


def method_of(params, recipe: dict):
    return build_method(load_recipe(params(**changes_of(recipe)), "clip"), 0, text_facts())[0]


def test_rows_are_drawn_without_replacement_in_random_order_and_evenly():
    seeds = torch.arange(20_000) * 7919
    slots = draw_slots(seeds, 5, 3)
    assert all(len(set(row)) == 3 for row in slots[:500].tolist())
    for place in range(3):  # the order is random too, so that no slot prefers a place
        share = torch.bincount(slots[:, place], minlength=5) / len(slots)
        assert (share - 0.2).abs().max() < 0.015
    included = torch.bincount(slots.flatten(), minlength=5) / len(slots)
    assert (included - 3 / 5).abs().max() < 0.015
    assert not torch.equal(draw_slots(seeds + 1, 5, 3), slots)


def test_what_is_drawn_depends_on_the_seed_alone():
    seeds = torch.tensor([5, 17, 5, 99, 2**62])
    whole = draw_slots(seeds, 11, 6)
    assert torch.equal(whole[0], whole[2])
    assert torch.equal(draw_slots(seeds[3:], 11, 6), whole[3:])
    assert torch.equal(draw_slots(seeds, 11, 2), whole[:, :2])
    rows = torch.randn(5, 11, 4)
    drawn = draw_rows(rows, seeds, 6)
    assert all(torch.equal(drawn[b, k], rows[b, whole[b, k]]) for b in range(5) for k in range(6))


@pytest.mark.parametrize("name", RECIPES)
def test_three_steps_lower_the_loss(params, name):
    file = params(**changes_of(RECIPES[name]))
    recipe = load_recipe(file, "clip")
    stepper = Stepper(build_method(recipe, 0, text_facts())[0], recipe, load_machine(file), HERE, 0)
    batch = with_views(global_batch(0), stepper.method.needs())
    del batch["text"], batch["text_cut"]
    values = [stepper.step(batch, step, TrainClock({}, HERE.device)).values for step in range(4)]
    assert values[3]["loss"] < values[0]["loss"]
    assert "text_cut_share" not in values[0]


def test_with_one_of_one_rows_it_is_clip(params):
    ours, clip = (
        method_of(params, {**flame(count=1), "method": kind})
        for kind in ({**flame(count=1)["method"]}, {"kind": "clip"})
    )
    batch = global_batch(0)
    batch["text_rows"] = batch["text_rows"][:, :1]
    losses = [method(batch, 0).losses["contrastive_loss"] for method in (ours, clip)]
    assert losses[0].item() == losses[1].item()
    for loss in losses:
        loss.backward()
    gradients = [{name: p.grad for name, p in method.named_parameters()} for method in (ours, clip)]
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def test_gradients_reach_tower_head_and_scale_and_no_text(params):
    method = method_of(params, flame("sigmoid"))
    batch = global_batch(0)
    batch["text_rows"].requires_grad_()
    features = method.encode(batch)
    assert features["text_rows"].shape == (16, 2, 24)
    with torch.no_grad():
        features["text_rows"] = features["text_rows"].clone()
    method.losses(GatheredFeatures(features, slice(0, 16)), 0).losses["contrastive_loss"].backward()
    named = dict(method.named_parameters())
    assert {name.split(".")[1] for name in named} == {"visual", "head", "logit_scale", "logit_bias"}
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in named.values())
    grouped = {name for group in method.param_groups(0.1) for name, _ in group.params}
    assert grouped == set(named)


def test_scale_and_bias_start_as_published_and_only_the_scale_is_clamped(params):
    softmax, sigmoid = (method_of(params, flame(loss)).model for loss in ("softmax", "sigmoid"))
    assert softmax.logit_scale.exp().item() == pytest.approx(1 / 0.07) and softmax.logit_bias is None
    assert sigmoid.logit_scale.exp().item() == pytest.approx(10) and sigmoid.logit_bias.item() == -10
    given = {**flame("sigmoid")["method"], "init_logit_scale": 20.0, "init_logit_bias": -5.0}
    method = method_of(params, {**flame(), "method": given})
    assert method.model.logit_scale.exp().item() == pytest.approx(20) and method.model.logit_bias.item() == -5
    with torch.no_grad():
        method.model.logit_scale.fill_(9.0)
        method.model.logit_bias.fill_(-300.0)
    method.after_step(0)
    assert method.model.logit_scale.exp().item() == pytest.approx(100) and method.model.logit_bias.item() == -300


def test_other_methods_see_one_random_row_in_training_and_the_first_one_else(params):
    method = method_of(params, RECIPES["frozen_clip"])
    batch = global_batch(0)
    slots = draw_slots(batch["seed"], 3, 1)[:, 0]
    assert len(set(slots.tolist())) == 3
    wanted = batch["text_rows"][torch.arange(16), slots]
    assert torch.equal(method.encode_captions(batch), wanted)
    assert torch.equal(method.eval().encode_captions(batch), batch["text_rows"][:, 0])


def test_held_out_pairs_are_scored_against_the_first_slot(params):
    method = method_of(params, flame())
    batch = global_batch(0)
    scores = holdout_scores(method, [batch], HERE.device)
    with torch.no_grad():
        images = method.model.encode_image(method.normalize(batch["image"]), normalize=True)
        wanted = info_nce_loss(images, batch["text_rows"][:, 0], method.model.logit_scale.exp())
    assert scores["holdout/loss"] == pytest.approx(wanted.item(), abs=1e-4)


def test_an_averaged_tower_scores_patches_by_the_layers_whose_class_token_is_trained(params):
    method = method_of(params, RECIPES["frozen_aclip"])
    batch = with_views(global_batch(0), method.needs())
    scores = method.ema_pass(batch).scores
    with torch.no_grad():
        # what the class token asks for in the last layer changes nothing
        attention = method.ema_tower.visual.transformer.resblocks[-1].attn
        attention.in_proj_weight.mul_(3.0)
    changed = method.ema_pass(batch)
    assert torch.equal(changed.scores, scores)
    patches = method.encode_images(batch, ("image",)).pooled
    assert changed.pooled.shape == patches.shape == (16, 32)
    vision = {**towers()["vision"], "layers": 1}
    with pytest.raises(ConfigError, match="all layers but the last where text is frozen"):
        method_of(params, {**RECIPES["frozen_aclip"], "towers": towers(vision=vision)})


@pytest.mark.parametrize(
    ("recipe", "fault"),
    [
        (flame(count=4), "rows_per_image exceeds .*got 4, wanted at most 3"),
        ({"method": {"kind": "flame", "loss": "nce"}, "towers": towers()}, "'softmax' or 'sigmoid'"),
        ({"method": {"kind": "flame"}, "towers": towers()}, "loss: Field required"),
        (
            {"method": {"kind": "flame", "loss": "softmax", "init_logit_bias": -1.0}, "towers": towers()},
            "init_logit_bias belongs to loss sigmoid",
        ),
        (
            {"method": {"kind": "flame", "loss": "softmax"}},
            r"method flame works with frozen text only; set towers.text",
        ),
        (
            {"method": {**PROTOCLIP, "lock": {"episodes": 2, "lr": 1e-4}}, "towers": towers()},
            "lock leaves nothing to train where text is frozen",
        ),
    ],
)
def test_what_cannot_work_is_refused(params, recipe, fault):
    with pytest.raises(ConfigError, match=fault):
        method_of(params, recipe)


def paths(toy_data, folder, features=None) -> Paths:
    return Paths(*toy_data, folder / "model", folder / "log", features=features)


def frozen_run(recipe: dict, **changes) -> dict:
    given = {**changes_of(recipe), "recipes.clip.budget": BUDGET, "recipes.clip.holdout": {"pairs": 8, "every": 5}}
    return {**given, "runs.toy-s0.features": "rows", "features": {"rows": ENTRY}, **changes}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_a_run_learns_the_toy_captions_and_its_export_finds_them(toy_data, params, here, storage):
    rows = write_features(toy_data, here / "features", storage)
    budget = {"recipes.clip.budget": {"samples_seen": 1600, "batch_size": 16}}
    file = params(**frozen_run(flame(towers=towers(center=True)), **budget))
    pretrain("toy-s0", file, paths(toy_data, here, here / "features"))
    assert verify_manifest(here / "model") == []
    curves = here / "log/plots/metrics"
    curve = np.loadtxt(curves / "train/loss.tsv", skiprows=1)[:, 1]
    assert curve[-10:].mean() < curve[:10].mean() - 0.5
    assert not (curves / "train/text_cut_share.tsv").exists() and (curves / "holdout/loss.tsv").exists()
    assert "features" in json.loads((here / "model/manifest.json").read_text())["inputs"]
    export = load_export(here / "model")
    np.testing.assert_allclose(export.text.slot_means, rows.mean(axis=0), atol=1e-6)
    assert export.text.features["model"] == "a toy"
    assert "load_export" in (here / "model/README.md").read_text()
    cost = json.loads((here / "log/summary.json").read_text())["cost"]
    assert cost["trainable_params"] == cost["inference_params"]


class Killed(Exception):
    """Stands for a kill."""


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [flame("sigmoid"), RECIPES["frozen_clip"]], ids=["flame", "clip"])
def test_a_run_that_was_killed_goes_on_to_the_same_bytes(toy_data, params, here, monkeypatch, recipe):
    write_features(toy_data, here / "features")
    file = params(**frozen_run(recipe))
    pretrain("toy-s0", file, paths(toy_data, here / "whole", here / "features"))
    step, taken = Stepper.step, []

    def dies(self, batch, number, *rest):
        if number == 7:
            raise Killed
        return step(self, batch, number, *rest)

    def goes_on(self, batch, number, *rest):
        taken.append(number)
        return step(self, batch, number, *rest)

    monkeypatch.setattr(Stepper, "step", dies)
    with pytest.raises(Killed):
        pretrain("toy-s0", file, paths(toy_data, here / "killed", here / "features"))
    monkeypatch.setattr(Stepper, "step", goes_on)
    pretrain("toy-s0", file, paths(toy_data, here / "killed", here / "features"))
    assert taken[0] in (3, 6)
    for name in ("open_clip_model.safetensors", "clipfoundry_config.json", "manifest.json"):
        assert (here / "killed/model" / name).read_bytes() == (here / "whole/model" / name).read_bytes()


def test_features_and_recipe_must_want_each_other(toy_data, params, here):
    with pytest.raises(
        ConfigError, match=r"frozen.* of recipe clip want features, got 'none'; set runs.toy-s0.features"
    ):
        pretrain("toy-s0", params(**changes_of(flame())), paths(toy_data, here))
    teacher = {"recipes.clip.method": {**PROTOCLIP, "teacher": {}}}
    with pytest.raises(ConfigError, match=r"method\.teacher of recipe clip want features"):
        pretrain("toy-s0", params(**teacher), paths(toy_data, here))
    idle = {"runs.toy-s0.features": "rows", "features": {"rows": ENTRY}}
    fault = "nothing in recipe clip uses the features of run toy-s0, got 'rows'; set runs.toy-s0.features to none"
    with pytest.raises(ConfigError, match=fault):
        pretrain("toy-s0", params(**idle), paths(toy_data, here, here / "features"))
    with pytest.raises(ConfigError, match=r"unknown features 'rwos' .*did you mean 'rows'"):
        pretrain("toy-s0", params(**{**idle, "runs.toy-s0.features": "rwos"}), paths(toy_data, here))
    other = {"rows": {**ENTRY, "dataset": "pets"}}
    fault = r"runs.toy-s0 is of another data set than its features rows, got 'toy', wanted pets"
    with pytest.raises(ConfigError, match=fault):
        pretrain(
            "toy-s0", params(**{**idle, "features": other, "datasets": {"toy": {}, "pets": {}}}), paths(toy_data, here)
        )
    assert not (here / "work").exists()


def test_features_that_cannot_be_used_are_refused_before_any_work(toy_data, params, here):
    run = frozen_run(flame())
    with pytest.raises(DataError, match="there are no features in"):
        pretrain("toy-s0", params(**run), paths(toy_data, here, here / "nowhere"))
    write_features(toy_data, here / "features")
    missing = flame(towers=towers(text={"kind": "frozen", "center": True, "slots": ["short/*"]}))
    with pytest.raises(ConfigError, match=r"unknown slot 'short/\*'"):
        pretrain("toy-s0", params(**frozen_run(missing)), paths(toy_data, here, here / "features"))
    change_manifest(here / "features", lambda manifest: manifest["inputs"].update(valid="0" * 16))
    with pytest.raises(DataError, match=r"external teacher cache of another data version \(valid differs\)"):
        pretrain("toy-s0", params(**run), paths(toy_data, here, here / "features"))
    assert not (here / "work").exists()
