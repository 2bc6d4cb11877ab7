import pytest
import torch

from tests.training.view_batches import TOWERS, with_views
from training.config import load_recipe
from training.models.build import build_method


def method_of(params, **changes):
    changes = {f"recipes.clip.{key}": value for key, value in ({"towers": TOWERS} | changes).items()}
    return build_method(load_recipe(params(**changes), "clip"), 0)[0]


@pytest.mark.parametrize("masking", [{"kind": "none"}, {"kind": "random", "keep": 0.25}])
def test_one_view_is_clip_to_the_last_bit(params, colour_batch, masking):
    ours = method_of(params, method={"kind": "random_mask", "num_views": 1}, masking=masking)
    clip = method_of(params, method={"kind": "clip"}, masking=masking)
    losses = [method(colour_batch, 0).losses["contrastive_loss"] for method in (ours, clip)]
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    expected = dict(clip.named_parameters())
    assert all(torch.equal(p.grad, expected[name].grad) for name, p in ours.named_parameters())


@pytest.mark.parametrize("num_views", [2, 3])
def test_the_loss_is_the_mean_of_clips_on_each_view(params, colour_batch, num_views):
    method = method_of(params, method={"kind": "random_mask", "num_views": num_views})
    clip = method_of(params, method={"kind": "clip"})
    batch = with_views(colour_batch, method.needs())
    names = ["image", "image_2", "image_3"][:num_views]
    assert list(method.needs().views) == names
    each = [clip({**batch, "image": batch[name]}, 0).losses["contrastive_loss"].item() for name in names]
    output = method(batch, 0)
    assert output.losses["contrastive_loss"].item() == pytest.approx(sum(each) / num_views, abs=1e-6)
    assert [output.logs[f"contrastive_loss_{name}"].item() for name in names] == pytest.approx(each, abs=1e-6)


def test_views_of_equal_pixels_keep_different_patches(params, colour_batch):
    method = method_of(params, method={"kind": "random_mask"}, masking={"kind": "random", "block": 2})
    batch = {**colour_batch, "image_2": colour_batch["image"]}
    features = method.encode(batch)
    assert (features["image"] - features["image_2"]).abs().amax(dim=1).gt(1e-4).float().mean() > 0.5
    assert torch.equal(method.encode(batch)["image_2"], features["image_2"])


def test_blocks_are_random_uniform_and_whole(params):
    from training.models.masking import choose_patches
    from training.models.masking_config import RandomMasking

    masking = RandomMasking(kind="random", keep=0.5, block=2)
    kept = choose_patches(masking, (4, 6), {"seed": torch.arange(3000)}, ("image", 0), None)
    assert kept.shape == (3000, 12)
    seen = torch.zeros(3000, 24).scatter_(1, kept, 1).reshape(3000, 4, 6)
    blocks = seen.unflatten(1, (2, 2)).unflatten(3, (3, 2))
    assert torch.equal(blocks.amax(dim=(2, 4)), blocks.amin(dim=(2, 4)))
    assert (blocks[:, :, 0, :, 0].mean(dim=0) - 0.5).abs().max() < 4.5 * 0.5 / 3000**0.5
