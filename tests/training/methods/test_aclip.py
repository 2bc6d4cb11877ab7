import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from assets.section import parse
from tests.training.view_batches import RECIPES, case_a, with_views
from training.config import load_recipe
from training.engine.gather import GatheredFeatures
from training.methods.aclip import AClip, AClipConfig
from training.methods.exchange import ImageInput
from training.models.build import build_method
from training.models.masking_config import EmaTowerConfig, NoMasking

CASE = case_a()
GRADIENTS = {
    "image_embed": 12,
    "text_embed": 6,
    "image_ssl_embed": 12,
    "byol_feats": 12,
}


class Scaled(nn.Module):
    """Stands for a model: what the losses need is the scale."""

    def __init__(self, log_scale):
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(log_scale, dtype=torch.float64))


class OnGiven(AClip):
    """A-CLIP whose heads have been applied already: the published losses begin behind them."""

    def __init__(self, config):
        nn.Module.__init__(self)
        self.config, self.images = config, ImageInput(views=None, masking=NoMasking(kind="none"))
        self.model = Scaled(float(CASE["loss_log_scale"]))


class Column(nn.Module):
    """Picks the columns of ``pooled`` in which the test put a head's result."""

    def __init__(self, start, end):
        super().__init__()
        self.start, self.end = start, end

    def forward(self, pooled):
        return pooled[:, self.start : self.end]


def published(rows=slice(0, None), step=0, **settings):
    """The method on the published inputs: pooled features hold both heads' results side by side."""
    settings = {"kind": "aclip", "temperature": float(CASE["loss_tau"]), **settings}
    method = OnGiven(parse(AClipConfig, settings, "method"))
    method.simclr_head, method.projector = Column(0, 12), Column(12, 24)
    method.predictor, method.ema_projector = nn.Identity(), nn.Identity()
    inputs = {name: torch.from_numpy(CASE[f"loss_{name}"]).clone().requires_grad_() for name in GRADIENTS}
    inputs["ema"] = torch.from_numpy(CASE["loss_byol_feats_e"]).clone().requires_grad_()
    image, pooled = inputs["image_embed"], torch.cat([inputs["image_ssl_embed"], inputs["byol_feats"]], dim=1)
    features = {
        "image": normalize(image[:6], dim=-1),
        "image_2": normalize(image[6:], dim=-1),
        "text_features": normalize(inputs["text_embed"], dim=-1),
        "image_pooled": pooled[:6],
        "image_2_pooled": pooled[6:],
        "ema_pooled": inputs["ema"],
    }
    output = method.losses(GatheredFeatures(features, rows), step)
    return method, inputs, output


def test_losses_and_gradients_are_those_of_the_published_code_with_its_second_view_mended():
    method, inputs, output = published()
    total = sum(output.losses.values())
    total.backward()
    assert total.item() == pytest.approx(float(CASE["aclip_fixed_loss"]), abs=1e-9)
    assert output.losses["simclr_loss"].item() == pytest.approx(float(CASE["aclip_fixed_simclr_loss"]), abs=1e-9)
    assert output.losses["byol_loss"].item() == pytest.approx(2 * float(CASE["aclip_fixed_im_byol_loss"]), abs=1e-9)
    for view, name in ((1, "image"), (2, "image_2")):
        logged = output.logs[f"contrastive_loss_{name}"].item()
        assert logged == pytest.approx(float(CASE[f"aclip_fixed_contra_loss_{view}"]), abs=1e-9)
    for name in GRADIENTS:
        assert np.abs(inputs[name].grad.numpy() - CASE[f"aclip_fixed_grad_{name}"]).max() < 1e-8, name
    assert method.model.logit_scale.grad.item() == pytest.approx(float(CASE["aclip_fixed_grad_log_scale"]), abs=1e-8)
    assert inputs["ema"].grad is None  # the published loss leaves it to its caller to detach the target


def test_the_parts_of_two_ranks_average_to_the_published_loss_and_gradients():
    # the published two ranks run the code with the unmended second view, so only the other terms are compared alone
    parts = [published(rows) for rows in (slice(0, 3), slice(3, 6))]
    totals = [sum(output.losses.values()) for _, _, output in parts]
    assert sum(total.item() for total in totals) / 2 == pytest.approx(float(CASE["aclip_fixed_loss"]), abs=1e-9)
    for rank, (_, _, output) in enumerate(parts):
        byol = float(CASE[f"w2_aclip_im_byol_loss_r{rank}"])
        assert output.losses["byol_loss"].item() == pytest.approx(2 * byol, abs=1e-9)
        for view, name in ((1, "image"), (2, "image_2")):
            logged = output.logs[f"contrastive_loss_{name}"].item()
            assert logged == pytest.approx(float(CASE[f"w2_aclip_contra_loss_{view}_r{rank}"]), abs=1e-9)
    for name in GRADIENTS:
        mean = 0
        for (_, inputs, _), total in zip(parts, totals, strict=True):
            mean = mean + torch.autograd.grad(total, inputs[name], retain_graph=True)[0] / 2
        assert np.abs(mean.numpy() - CASE[f"aclip_fixed_grad_{name}"]).max() < 1e-8, name


def test_further_losses_rise_to_the_published_ones_over_the_warm_up():
    whole = published()[2].losses
    for step, share in ((0, 0.0), (1, 0.25), (3, 0.75), (4, 1.0), (400, 1.0)):
        losses = published(step=step, ssl_warmup_steps=4)[2].losses
        assert losses["contrastive_loss"] == whole["contrastive_loss"]
        for name in ("simclr_loss", "byol_loss"):
            assert losses[name].item() == pytest.approx(share * whole[name].item(), rel=1e-12, abs=0)
    _, inputs, output = published(ssl_warmup_steps=4)
    sum(output.losses.values()).backward()
    assert (inputs["byol_feats"].grad == 0).all()  # a gradient, so that several processes agree, and nothing in it


def method_of(params, **changes):
    changes = {f"recipes.clip.{key}": value for key, value in (RECIPES["aclip"] | changes).items()}
    return build_method(load_recipe(params(**changes), "clip"), 0)[0]


def test_gradients_go_where_the_formula_says_and_nowhere_else(params, colour_batch):
    method = method_of(params)
    batch = with_views(colour_batch, method.needs())
    reached = {}
    for term in ("contrastive_loss", "simclr_loss", "byol_loss"):
        method.zero_grad()
        method(batch, 0).losses[term].backward()
        reached[term] = {name.partition(".")[0] for name, p in method.named_parameters() if p.grad is not None}
        text = any(p.grad is not None for name, p in method.named_parameters() if "token_embedding" in name)
        assert text == (term == "contrastive_loss")
    assert reached == {
        "contrastive_loss": {"model"},
        "simclr_loss": {"model", "simclr_head"},
        "byol_loss": {"model", "projector", "predictor"},
    }


def test_dropped_pixels_get_no_gradient_and_kept_ones_do(params, colour_batch):
    method = method_of(params, views={"crop_area": [0.5, 1.0]})
    batch = with_views(colour_batch, method.needs())
    seen = {}

    def watched(image):
        pixels = (image.float() / 255).requires_grad_()
        seen.setdefault("pixels", []).append(pixels)
        return pixels

    method.normalize = watched
    encoded = method.encode_images(batch, ("image",), method.ema_pass(batch))
    encoded.image_features.square().sum().backward()
    ema, view = seen["pixels"]
    assert ema.grad is None
    patches = view.grad.abs().sum(dim=1).unflatten(1, (4, 8)).unflatten(3, (4, 8)).sum(dim=(2, 4))  # [B, 4, 4]
    assert ((patches > 0).flatten(1).sum(dim=1) == 12).all()
    blocks = (patches > 0).unflatten(1, (2, 2)).unflatten(3, (2, 2))
    assert torch.equal(blocks.float().amax(dim=(2, 4)), blocks.float().amin(dim=(2, 4)))  # whole blocks


def test_equal_views_without_masks_and_further_losses_are_clip_in_loss_and_gradients(params, colour_batch):
    plain = {"masking": {"kind": "none"}, "ema_tower": None, "views": {"crop_area": [0.5, 1.0]}}
    clip = method_of(params, **plain, method={"kind": "clip"})
    ours = method_of(params, **plain, method={"kind": "aclip", "ssl_weight": 0, "byol_weight": 0})
    batch = {**colour_batch, "image_2": colour_batch["image"]}
    outputs = [method(batch, 0).losses for method in (clip, ours)]
    assert outputs[1].keys() == {"contrastive_loss"}
    for output in outputs:
        output["contrastive_loss"].backward()
    assert outputs[1]["contrastive_loss"].item() == pytest.approx(outputs[0]["contrastive_loss"].item(), abs=1e-6)
    expected = dict(clip.named_parameters())
    assert expected.keys() == dict(ours.named_parameters()).keys()
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, atol=1e-6, rtol=1e-4, msg=name)


def test_the_average_starts_equal_and_sees_the_view_around_both(params):
    method = method_of(params)
    assert list(method.needs().views) == ["image", "image_2", "ema_image"]
    assert method.needs().views["ema_image"].around == ("image", "image_2") and method.needs().boxes
    online = method.model.visual.state_dict()
    assert all(torch.equal(value, online[name]) for name, value in method.ema_tower.visual.state_dict().items())
    pairs = zip(method.projector.parameters(), method.ema_projector.parameters(), strict=True)
    assert all(torch.equal(a, b) and not b.requires_grad for a, b in pairs)
    assert method.images.ema_tower == EmaTowerConfig(momentum=0.9)


def test_the_projectors_average_follows_its_own_formula(params):
    method = method_of(params)
    slow = [p.clone() for p in method.ema_projector.parameters()]
    for step in range(4):
        with torch.no_grad():
            for p in method.projector.parameters():
                p.add_(1.0)
        method.before_step(step, 4)
        m = 1 - 0.1 * (1 + math.cos(math.pi * step / 4)) / 2
        slow = [m * old + (1 - m) * p.detach() for old, p in zip(slow, method.projector.parameters(), strict=True)]
    for expected, got in zip(slow, method.ema_projector.parameters(), strict=True):
        torch.testing.assert_close(got, expected)


def test_the_export_and_the_optimiser_know_nothing_of_the_average(params):
    method = method_of(params)
    names = {name for group in method.param_groups(0.1) for name, _ in group.params}
    assert not any("ema" in name for name in names) and any("predictor" in name for name in names)
    assert not any("ema" in name or "head" in name for name in method.model.state_dict())
    assert {name.partition(".")[0] for name in method.state_dict()} >= {"ema_tower", "ema_projector"}


def test_reversing_a_batch_reverses_what_is_encoded(params, colour_batch):
    method = method_of(params)
    batch = with_views(colour_batch, method.needs())
    straight = method.encode(batch)
    turned = method.encode({name: value.flip(0) for name, value in batch.items()})
    for name, value in straight.items():
        torch.testing.assert_close(turned[name].flip(0), value, atol=1e-5, rtol=1e-4)
