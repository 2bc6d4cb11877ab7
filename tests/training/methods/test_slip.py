import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from assets.section import parse
from tests.training.view_batches import RECIPES, case_a, with_views
from training.config import load_recipe
from training.engine.gather import GatheredFeatures
from training.methods.slip import Slip, SlipConfig
from training.models.build import build_method

CASE = case_a()


def published(rows=slice(0, None), weight=float(CASE["loss_ssl_scale"]), step=0, warmup_steps=0):
    """SLIP's losses on the published inputs, whose head has been applied already."""
    method = Slip.__new__(Slip)
    nn.Module.__init__(method)
    settings = {"kind": "slip", "ssl_weight": weight, "ssl_warmup_steps": warmup_steps}
    settings["temperature"] = float(CASE["loss_tau"])
    method.config = parse(SlipConfig, settings, "method")
    method.model = nn.Module()
    method.model.logit_scale = nn.Parameter(torch.tensor(float(CASE["loss_log_scale"]), dtype=torch.float64))
    method.simclr_head = nn.Identity()
    inputs = {
        "image_embed": torch.from_numpy(CASE["loss_image_embed"][:6]),
        "text_embed": torch.from_numpy(CASE["loss_text_embed"]),
        "aug1_embed": torch.from_numpy(CASE["loss_image_ssl_embed"][:6]),
        "aug2_embed": torch.from_numpy(CASE["loss_image_ssl_embed"][6:]),
    }
    inputs = {name: value.clone().requires_grad_() for name, value in inputs.items()}
    features = {
        "image_features": normalize(inputs["image_embed"], dim=-1),
        "text_features": normalize(inputs["text_embed"], dim=-1),
        "ssl_pooled_1": inputs["aug1_embed"],
        "ssl_pooled_2": inputs["aug2_embed"],
    }
    return method, inputs, method.losses(GatheredFeatures(features, rows), step)


def test_losses_and_gradients_are_those_of_the_published_code():
    method, inputs, output = published()
    total = sum(output.losses.values())
    total.backward()
    assert total.item() == pytest.approx(float(CASE["slip_loss"]), abs=1e-9)
    assert output.losses["contrastive_loss"].item() == pytest.approx(float(CASE["slip_clip_loss"]), abs=1e-9)
    assert output.losses["simclr_loss"].item() == pytest.approx(float(CASE["slip_ssl_loss"]), abs=1e-9)
    for name, value in inputs.items():
        assert np.abs(value.grad.numpy() - CASE[f"slip_grad_{name}"]).max() < 1e-8, name
    assert method.model.logit_scale.grad.item() == pytest.approx(float(CASE["slip_grad_log_scale"]), abs=1e-8)


def test_each_half_has_the_loss_of_the_published_rank():
    for rank, rows in enumerate((slice(0, 3), slice(3, 6))):
        output = published(rows)[2]
        assert sum(output.losses.values()).item() == pytest.approx(float(CASE[f"w2_slip_loss_r{rank}"]), abs=1e-9)


def test_the_weight_scales_the_further_term_alone():
    one, half = published()[2].losses, published(weight=0.5)[2].losses
    assert half["contrastive_loss"] == one["contrastive_loss"]
    assert half["simclr_loss"].item() == pytest.approx(one["simclr_loss"].item() / 2, rel=1e-12)


def test_the_weight_rises_over_the_warm_up():
    whole = published()[2].losses
    for step, share in ((0, 0.0), (1, 0.1), (9, 0.9), (10, 1.0), (11, 1.0)):
        losses = published(step=step, warmup_steps=10)[2].losses
        assert losses["contrastive_loss"] == whole["contrastive_loss"]
        assert losses["simclr_loss"].item() == pytest.approx(share * whole["simclr_loss"].item(), rel=1e-12, abs=0)


def test_captions_are_compared_with_the_plain_view_only(params, colour_batch):
    changes = {f"recipes.clip.{key}": value for key, value in RECIPES["slip"].items()}
    method = build_method(load_recipe(params(**changes), "clip"), 0)[0]
    views = method.needs().views
    assert views["image"].colour is None and views["ssl_image_1"] == views["ssl_image_2"]
    assert views["ssl_image_1"].crop_area == (0.08, 1.0) and views["ssl_image_1"].colour.jitter == (0.4, 0.4, 0.4, 0.1)
    batch = with_views(colour_batch, method.needs())
    first = method.encode(batch)
    other = method.encode({**batch, "ssl_image_1": batch["ssl_image_2"]})
    torch.testing.assert_close(other["image_features"], first["image_features"], atol=1e-6, rtol=0)
    assert not torch.allclose(other["ssl_pooled_1"], first["ssl_pooled_1"], atol=1e-3)
    method.zero_grad()
    method(batch, 0).losses["simclr_loss"].backward()
    reached = {name for name, p in method.named_parameters() if p.grad is not None}
    assert not any("proj" in name and "visual.proj" in name for name in reached) and "simclr_head.6.weight" in reached
    assert not any(name.startswith("model.transformer") for name in reached)
