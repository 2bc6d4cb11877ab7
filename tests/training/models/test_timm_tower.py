"""A tower of timm gives timm's own tokens, stays as it was where it is frozen, and travels whole in an export."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from safetensors.torch import save_file

from assets.errors import ConfigError
from evaluation.frozen_text_export import FrozenTextImages
from tests.training.engine.rank_cases import global_batch
from tests.training.frozen_text import flame, lexvla, text_facts, towers
from training.config import load_recipe
from training.engine.checkpoint import whole
from training.engine.flops import FlopsProbe
from training.models.build import build_method, export_model
from training.models.frozen_export import load_export
from training.models.frozen_text import model_width
from training.models.image_pass import encode_image, feature_width, pooled_width
from training.models.timm_tower import TIMM, TimmPatchTower, timm_vision_config
from training.models.towers_config import VisionTimm

NAME = "test_vit"  # 0.3 million weights, patches of 16 pixels
REGISTERS = "test_vit3"  # one register token, no class token, pooling of its own
SIDE = 32
PIXELS = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))  # in [0, 1]


def vision(weights: Path | None = None, freeze: bool = False, name: str = NAME) -> dict:
    source = None if weights is None else {"kind": "file", "path": str(weights)}
    return {"kind": "timm", "name": name, "weights": source, "freeze": freeze}


def ours(image: torch.Tensor) -> torch.Tensor:
    """Normalise pixels as training and exports do."""
    return (image - torch.tensor(OPENAI_DATASET_MEAN).view(3, 1, 1)) / torch.tensor(OPENAI_DATASET_STD).view(3, 1, 1)


def tower(name: str = NAME, class_token: bool = True, freeze: bool = False) -> TimmPatchTower:
    torch.manual_seed(0)
    return TimmPatchTower({TIMM: name, "image_size": SIDE, "freeze": freeze}, class_token)


def method_of(params, recipe: dict):
    file = params(**{f"recipes.clip.{name}": value for name, value in recipe.items()})
    return build_method(load_recipe(file, "clip"), 0, text_facts())


def words_recipe(vision_: dict, **changes) -> dict:
    recipe = lexvla()
    return {**recipe, "towers": {**recipe["towers"], "vision": vision_, "image_size": SIDE}, **changes}


@pytest.fixture
def weights(tmp_path):
    """Weights of the published shape: for larger images, and with a classifier."""
    torch.manual_seed(7)
    model = timm.create_model(NAME, num_classes=10, img_size=64)
    path = tmp_path / "vit.safetensors"
    save_file(model.state_dict(), path)
    return path


@pytest.mark.parametrize("name", [NAME, REGISTERS])
def test_tokens_are_those_of_timm_on_pixels_as_the_tower_wants_them(name):
    built = tower(name).eval()
    reference = timm.create_model(name, num_classes=0, img_size=SIDE).eval()
    reference.load_state_dict(built.trunk.state_dict(), strict=False)
    shown = reference.pretrained_cfg
    pixels = (PIXELS - torch.tensor(shown["mean"]).view(3, 1, 1)) / torch.tensor(shown["std"]).view(3, 1, 1)
    with torch.no_grad():
        tokens = reference.forward_features(pixels)  # [B, 1 + N, W]; the first is a class or a register token
        encoded = encode_image(built, ours(PIXELS))
    torch.testing.assert_close(encoded.image_token_features, tokens[:, 1:], atol=1e-5, rtol=1e-4)
    own = tokens[:, 0] if name == NAME else tokens[:, 1:].mean(dim=1)
    torch.testing.assert_close(encoded.pooled, own, atol=1e-5, rtol=1e-4)
    assert encoded.image_features is encoded.pooled
    assert built.grid_size == (2, 2) and built.patch_size == (16, 16) and built.image_size == (SIDE, SIDE)
    assert pooled_width(built) == feature_width(built) == built.width == tokens.shape[-1]


def test_a_norm_that_timm_applies_to_the_mean_is_applied_to_each_token(tmp_path):
    torch.manual_seed(0)
    reference = timm.create_model("eva02_tiny_patch14_224", num_classes=5, img_size=28).eval()
    torch.nn.init.normal_(reference.fc_norm.weight)  # so that a norm left fresh would show
    path = tmp_path / "eva.safetensors"
    save_file(reference.state_dict(), path)
    built = TimmPatchTower({TIMM: "eva02_tiny_patch14_224", "image_size": 28, "freeze": True}, class_token=True)
    built.load(path)
    shown = reference.pretrained_cfg
    mean, deviation = (torch.tensor(shown[name]).view(3, 1, 1) for name in ("mean", "std"))
    image = torch.rand(2, 3, 28, 28)
    with torch.no_grad():
        tokens = reference.fc_norm(reference.forward_features((image - mean) / deviation))
    own, patches = built.train().tokens(ours(image))
    torch.testing.assert_close(torch.cat([own[:, None], patches], dim=1), tokens, atol=1e-4, rtol=1e-3)


def test_the_mean_of_the_patches_stands_for_the_image_where_no_class_token_is_wanted():
    own, patches = tower(class_token=False).eval().tokens(ours(PIXELS))
    assert patches.shape == (3, 4, 64) and torch.equal(own, patches.mean(dim=1))


@pytest.mark.parametrize("name", [NAME, REGISTERS])
def test_every_weight_of_a_tower_that_learns_gets_a_gradient(name):
    built = tower(name, class_token=False)
    built(ours(PIXELS)).square().sum().backward()
    assert [weight for weight, p in built.named_parameters() if p.grad is None] == []


def steps(method, count: int, rate: float = 1e-3) -> list[float]:
    """Train on one batch and return the losses before each step."""
    groups = [{"params": [p for _, p in group.params]} for group in method.param_groups(0.0)]
    optimizer = torch.optim.AdamW(groups, lr=rate)
    losses: list[float] = []
    for step in range(count):
        loss = torch.stack(list(method(global_batch(0), step).losses.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step(step)
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("freeze", [True, False])
def test_lexvla_learns_and_a_frozen_tower_stays_bit_for_bit(params, weights, freeze):
    method, _ = method_of(params, words_recipe(vision(weights, freeze)))
    method.train()
    visual = method.model.visual
    before = {name: value.clone() for name, value in visual.state_dict().items()}
    losses = steps(method, 4)
    assert losses[3] < losses[0]
    same = [name for name, value in visual.state_dict().items() if torch.equal(value, before[name])]
    assert (len(same) == len(before)) is freeze
    grads = [p.grad for p in visual.parameters()]
    assert all(grad is None for grad in grads) if freeze else all(grad is not None for grad in grads)
    assert visual.trunk.training is not freeze and method.model.head.training


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_of_a_file_are_taken_and_positions_resized(params, weights, tmp_path, suffix):
    from safetensors.torch import load_file

    published = load_file(weights)
    if suffix == "pth":
        weights = tmp_path / "vit.pth"
        torch.save({"model": published}, weights)
    method, config = method_of(params, words_recipe(vision(weights)))
    found = method.model.visual.trunk.state_dict()
    resized = [name for name in found if not torch.equal(found[name], published[name])]
    assert resized == ["pos_embed"] and found["pos_embed"].shape[1] < published["pos_embed"].shape[1]
    told = config["vision_cfg"]
    assert told["weights"]["file"] == weights.name and len(told["weights"]["sha256"]) == 64
    assert (told["width"], told["layers"], told["patch_size"], told["head_width"]) == (64, 6, 16, 32)


def test_an_export_is_whole_without_the_file_it_began_as(params, weights, tmp_path):
    method, config = method_of(params, words_recipe(vision(weights, freeze=True)))
    tensors = {name: whole(value) for name, value in method.model.state_dict().items()}
    folder = tmp_path / "model"
    folder.mkdir()
    export_model(tensors, config, folder, method.lexicon)
    weights.unlink()
    export = load_export(folder)
    for image_pass in (method.eval().model.encode_image, method.model.encode_patches):
        again = getattr(export.model, image_pass.__name__)
        with torch.no_grad():
            torch.testing.assert_close(again(ours(PIXELS)), image_pass(ours(PIXELS)))
    images = FrozenTextImages(export, torch.device("cpu"))
    patches = images.encode_patches(ours(PIXELS))
    assert images.grid == (2, 2) and patches.shape == (3, 4, 20)
    assert np.allclose(np.linalg.norm(patches, axis=-1), 1, atol=1e-5)


def test_a_recipe_without_words_and_the_operations_of_freezing(params):
    counts = []
    for freeze in (True, False):
        recipe = flame(towers=towers(vision=vision(freeze=freeze), image_size=SIDE))
        method, _ = method_of(params, recipe)
        encoded = method.encode_images(global_batch(0))
        assert encoded.image_features.shape == (16, model_width(method.model)) == (16, 24)
        method.model.set_grad_checkpointing()
        counts.append(FlopsProbe(method).count(global_batch(0)))
    assert 0 < 2 * counts[0] < counts[1]  # no backward pass through the tower


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"vision": vision(name="test_vitt")}, "timm has no model 'test_vitt'; near: .*test_vit"),
        ({"vision": vision(name="test_vit.nothing")}, "timm has no model 'test_vit.nothing'; near: .*test_vit"),
        ({"vision": vision(name="resnet18")}, "resnet18 of timm does not give .*; name a ViT such as"),
        ({"vision": vision(), "image_size": 40}, "patches of test_vit, got 40, wanted a multiple of 16; change"),
        ({"vision": vision(Path("nowhere.pth"))}, "nowhere.pth, do not exist; mend towers.vision.weights.path"),
        ({"vision": {**vision(), "weights": {"kind": "web"}}}, "'file', 'hub'"),
        (
            {
                "vision": vision(),
                "embed_dim": 16,
                "text": {"context_length": 16, "width": 16, "heads": 2, "layers": 1},
            },
            "vision of kind timm needs text of kind frozen",
        ),
    ],
)
def test_towers_that_cannot_be_built_are_refused(params, changes, fault):
    with pytest.raises(ConfigError, match=fault):
        method_of(params, {**flame(), "towers": {**towers(image_size=SIDE), **changes}})


def test_weights_of_another_model_are_refused(params, weights, tmp_path):
    other = tmp_path / "other.pth"
    torch.save({"some.weight": torch.zeros(3)}, other)
    text = tmp_path / "text.safetensors"
    text.write_text("no weights")
    for path, fault in ((other, "only one of the two has blocks"), (text, r"is not of test_vit \(")):
        with pytest.raises(ConfigError, match=f"{fault}.*; name the file of this very model"):
            method_of(params, words_recipe(vision(path)))
    with pytest.raises(ConfigError, match="is not of test_vit3"):
        method_of(params, words_recipe(vision(weights, name=REGISTERS)))


def test_masking_needs_a_tower_that_drops_patches(params):
    with pytest.raises(ConfigError, match="cannot drop tokens, got 'TimmPatchTower'"):
        method_of(params, words_recipe(vision(), masking={"kind": "random"}))


def test_the_hub_is_read_from_its_cache_only(monkeypatch, tmp_path):
    wanted = VisionTimm.model_validate({**vision(name="test_vit.r160_in1k"), "weights": {"kind": "hub"}})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=r'run "hf download timm/test_vit.r160_in1k model.safetensors" where'):
        timm_vision_config(wanted, SIDE)
    cached = tmp_path / "models--timm--test_vit.r160_in1k"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text("a" * 40)
    file = cached / "snapshots" / ("a" * 40) / "model.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    assert timm_vision_config(wanted, SIDE)["weights"]["file"] == "model.safetensors"
