"""The head is the published one, the tower drops what it says, and an export gives the features of training."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from assets.errors import ConfigError, DataError
from tests.training.frozen_text import SLOTS, WIDTH, flame, text_facts, towers
from training.config import load_recipe
from training.engine.checkpoint import whole
from training.models.build import build_method, export_model
from training.models.frozen_export import is_frozen_text_export, load_export
from training.models.frozen_text import FrozenTextModel, TokenHead, model_width
from training.models.image_pass import encode_image, num_patches, pooled_width

CASE = np.load(Path(__file__).parents[2] / "fixtures/flame/case_a.npz")
CONFIG = {
    "embed_dim": 10,
    "vision_cfg": {
        "image_size": 32,
        "patch_size": 8,
        "width": 32,
        "layers": 2,
        "head_width": 16,
        "mlp_ratio": 2.0,
    },
    "head_cfg": {"kind": "tokens", "width": 12},
}


def array(name: str) -> torch.Tensor:
    return torch.from_numpy(CASE[name])


def published_head(kind: str = "tokens") -> TokenHead:
    head = TokenHead(10, 12, 14, kind).double()
    names = {f"layers.{number}.{part}": f"proj/{number}.{part}" for number in (0, 2, 3) for part in ("weight", "bias")}
    head.load_state_dict({ours: array(theirs) for ours, theirs in names.items()})
    return head


def test_the_head_and_its_gradients_are_the_published_ones():
    tokens = array("proj/tokens").clone().requires_grad_()  # [N, 1 + P, w]
    pooled = published_head()(tokens[:, 1:])
    assert np.abs(pooled.detach().numpy() - CASE["proj/pooled"]).max() < 1e-10
    out = normalize(pooled, dim=-1)
    assert np.abs(out.detach().numpy() - CASE["proj/out"]).max() < 1e-10
    (out * array("proj/cotangent")).sum().backward()
    assert np.abs(tokens.grad.numpy() - CASE["proj/grad_tokens"]).max() < 1e-9
    assert (tokens.grad[:, 0] == 0).all()


def test_pooling_first_is_another_function_that_agrees_on_equal_tokens():
    tokens = array("proj/tokens")[:, 1:]
    assert (published_head("pooled")(tokens) - published_head()(tokens)).abs().max() > 1e-3
    equal = tokens[:, :1].expand(-1, 6, -1)
    torch.testing.assert_close(published_head("pooled")(equal), published_head()(equal))


@pytest.fixture
def model() -> FrozenTextModel:
    torch.manual_seed(0)
    return FrozenTextModel(CONFIG, None)


def pixels(rows: int = 3) -> torch.Tensor:
    return torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_the_feature_is_the_mean_of_the_head_over_patches_before_any_final_norm(model):
    tower = model.visual
    x = tower.transformer(tower._embeds(pixels()))  # [B, 1 + N, W]
    encoded = model.image_pass(pixels())
    assert torch.equal(encoded.image_token_features, x[:, 1:])
    slow = torch.stack([model.head.layers(x[:, place]) for place in range(1, 17)]).mean(dim=0)
    torch.testing.assert_close(encoded.image_features, slow, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(encoded.pooled, x[:, 1:].mean(dim=1))
    assert torch.equal(model.encode_image(pixels(), normalize=True), normalize(encoded.image_features, dim=-1))


def test_what_the_head_does_not_use_is_not_there(model):
    names = set(model.state_dict())
    assert not [name for name in names if "ln_post" in name or name.endswith("visual.proj")]
    model.encode_image(pixels()).square().sum().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None and name != "logit_scale"]
    assert idle == []  # several processes want a gradient of every parameter


def test_dropped_patches_leave_the_mean_and_kept_ones_keep_their_places(model):
    every = torch.arange(16).expand(3, -1)
    torch.testing.assert_close(
        model.image_pass(pixels(), every).image_features,
        model.image_pass(pixels()).image_features,
        atol=1e-5,
        rtol=1e-4,
    )
    keep = torch.tensor([[0, 5, 10, 15]] * 3)
    image = pixels().requires_grad_()
    encoded = model.image_pass(image, keep)
    assert encoded.image_token_features.shape == (3, 4, 32)
    encoded.image_features.square().sum().backward()
    reached = image.grad.abs().sum(dim=1).unflatten(1, (4, 8)).unflatten(3, (4, 8)).sum(dim=(2, 4)).flatten(1) > 0
    assert reached[0].nonzero().flatten().tolist() == [0, 5, 10, 15]
    assert num_patches(model.visual) == 16 and pooled_width(model.visual) == 32 and model_width(model) == 10


def test_the_image_side_is_the_same_function_for_maskings_and_evaluation(model):
    encoded = encode_image(model.visual, pixels())
    assert torch.equal(model.head(encoded.image_token_features), model.encode_image(pixels()))


def method_of(params, text=None, **changes):
    file = params(**{f"recipes.clip.{name}": value for name, value in {**flame(), **changes}.items()})
    return build_method(load_recipe(file, "clip"), 0, text or text_facts())


def exported(params, folder, text=None, **changes):
    method, config = method_of(params, text, **changes)
    export_model({name: whole(value) for name, value in method.model.state_dict().items()}, config, folder)
    return method.eval()


@pytest.mark.parametrize("center", [False, True])
def test_an_export_embeds_as_the_trained_model_did_and_knows_its_text(params, colour_batch, tmp_path, center):
    text = text_facts(center)
    method = exported(params, tmp_path, text, method={"kind": "siglip"}, towers=towers(center))
    assert is_frozen_text_export(tmp_path) and not (tmp_path / "open_clip_config.json").exists()
    export = load_export(tmp_path)
    picture = Image.fromarray(colour_batch["image"][0].permute(1, 2, 0).numpy())
    with torch.no_grad():
        ours = normalize(method.encode_images(colour_batch).image_features, dim=-1)
        theirs = export.encode_images(export.preprocess(picture)[None])
    torch.testing.assert_close(theirs, ours[:1], atol=1e-5, rtol=1e-4)
    assert export.model.logit_bias.item() == -10 and not export.model.training
    found = export.text
    assert (found.slots, found.chosen, found.width, found.center) == (SLOTS, (0, 1, 2), WIDTH, center)
    assert found.features == {"kind": "facets"}
    assert found.slot_means is None if not center else np.array_equal(found.slot_means, text.slot_means)


def test_an_export_names_the_slots_that_training_saw(params, tmp_path):
    text = text_facts()
    some = type(text)(text.slots, (0, 2), text.width)
    exported(params, tmp_path, some, method={"kind": "clip"}, towers=towers(head={"kind": "pooled", "width": 7}))
    export = load_export(tmp_path)
    assert export.text.chosen == (0, 2) and export.text.names == ["raw/overall", "long/object"]
    assert export.model.head.kind == "pooled" and export.model.head.layers[0].out_features == 7


def test_a_damaged_export_is_refused(params, tmp_path):
    with pytest.raises(DataError, match=r"clipfoundry_config.json is missing; run"):
        load_export(tmp_path)
    exported(params, tmp_path, text_facts(center=True), towers=towers(center=True))
    config = tmp_path / "clipfoundry_config.json"
    whole_text = config.read_text()
    config.write_text(whole_text.replace('"width": 32', '"width": 48'))
    with pytest.raises(DataError, match=r"does not load .*size mismatch"):
        load_export(tmp_path)
    config.write_text(json.dumps({"model_cfg": {}}))
    with pytest.raises(DataError, match="does not load"):
        load_export(tmp_path)
    config.write_text(whole_text)
    weights = tmp_path / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(DataError, match="does not load"):
        load_export(tmp_path)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"embed_dim": 16}, "towers.embed_dim is not the width of the features, got 16, wanted 24; leave"),
        ({"vision": {"kind": "resnet", "layers": [1, 1, 1, 1], "width": 8}}, "needs vision of kind vit"),
        ({"text": {"kind": "frozen"}}, "text.frozen.center: Field required"),
        ({"text": {"kind": "frozen", "center": True, "slots": []}}, "slots is empty"),
        ({"text": {"kind": "frozen", "center": True, "slot": "all"}}, r"unknown key 'slot' \(did you mean 'slots'\?\)"),
        ({"text": {"kind": "thawed"}}, "kind is transformer or frozen"),
        ({"text": {"context_length": 16, "width": 16, "heads": 2, "layers": 1}}, "embed_dim is missing"),
        (
            {
                "embed_dim": 16,
                "head": {"kind": "tokens"},
                "text": {"context_length": 16, "width": 16, "heads": 2, "layers": 1},
            },
            "head belongs to text of kind frozen",
        ),
    ],
)
def test_towers_that_do_not_go_together_are_refused(params, changes, fault):
    with pytest.raises(ConfigError, match=fault):
        method_of(params, towers=towers(**changes))


def test_the_class_token_of_a_pooled_vision_tower_is_refused_with_frozen_text(params):
    vision = {**towers()["vision"], "pool_type": "avg"}
    with pytest.raises(ConfigError, match=r"vision\.pool_type has no meaning"):
        method_of(params, towers=towers(vision=vision))
