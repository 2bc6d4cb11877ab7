import open_clip
import pytest
import torch
from torch.nn import functional

from evaluation.image_trunk import split_tower

TEXT = {"context_length": 16, "vocab_size": 100, "width": 16, "heads": 2, "layers": 1}
VIT = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
TOWERS = {
    "vit": VIT,
    "vit, mean of tokens": {**VIT, "pool_type": "avg", "final_ln_after_pool": True},
    "resnet": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8},
    "timm": {"image_size": 32, "timm_model_name": "resnet10t", "timm_pool": "avg", "timm_proj": "linear"},
    "timm, mlp": {"image_size": 32, "timm_model_name": "resnet10t", "timm_pool": "avg", "timm_proj": "mlp"},
}
POOLED = {"vit": 32, "vit, mean of tokens": 32, "resnet": 12, "timm": 512, "timm, mlp": 512}


def model(tower: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return open_clip.CLIP(embed_dim=12, vision_cfg=TOWERS[tower], text_cfg=TEXT).eval()


@pytest.mark.parametrize("tower", TOWERS)
@torch.no_grad()
def test_both_parts_together_are_the_tower_to_the_bit(tower):
    whole, images = model(tower), torch.randn(3, 3, 32, 32)
    trunk, project = split_tower(whole)
    pooled = trunk(images)
    assert pooled.shape == (3, POOLED[tower])
    assert torch.equal(functional.normalize(project(pooled), dim=-1), whole.encode_image(images, normalize=True))


@pytest.mark.parametrize("tower", TOWERS)
@torch.no_grad()
def test_the_model_keeps_its_projection_and_shares_its_weights(tower):
    whole, images = model(tower), torch.randn(3, 3, 32, 32)
    before = {name: value.data_ptr() for name, value in whole.state_dict().items()}
    expected = whole.encode_image(images)
    trunk, project = split_tower(whole)
    assert {name: value.data_ptr() for name, value in whole.state_dict().items()} == before
    assert torch.equal(whole.encode_image(images), expected)
    for parameter in whole.visual.parameters():
        parameter.mul_(0.5)
    assert torch.equal(project(trunk(images)), whole.encode_image(images))


@torch.no_grad()
def test_pooled_features_do_not_depend_on_the_projection():
    whole, images = model("vit"), torch.randn(3, 3, 32, 32)
    trunk, _ = split_tower(whole)
    expected = trunk(images)
    whole.visual.proj.zero_()
    assert torch.equal(trunk(images), expected)
