import itertools

import pytest
import torch
from open_clip.model import CLIP

from assets.errors import ConfigError
from tests.training.view_batches import case_a
from training.models.ema_tower import EmaTower, class_attention, ema_momentum, ema_update
from training.models.image_pass import encode_image
from training.models.masking_config import EmaTowerConfig

CASE = case_a()
VISION = {"layers": 2, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 32}


def build(**vision):
    torch.manual_seed(0)
    text = {"context_length": 8, "vocab_size": 10, "width": 8, "heads": 1, "layers": 1}
    visual = CLIP(embed_dim=12, vision_cfg=VISION | vision, text_cfg=text).visual.double()
    with torch.no_grad():
        for parameter in visual.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return visual


def pictures(side=32):
    return torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def watched_scores(visual, image):
    """The attention weights that PyTorch's own module returns when asked, one block after the other."""
    x = visual._embeds(image)
    rows = []
    for block in visual.transformer.resblocks:
        y = block.ln_1(x)
        _, weights = block.attn(y, y, y, need_weights=True, average_attn_weights=False)
        rows.append(weights[:, :, 0, 1:].mean(dim=1))
        x = block(x)
    return torch.stack(rows).mean(dim=0)


def test_scores_are_the_published_ones():
    layers = zip(CASE["attn_cls_q"], CASE["attn_keys"], strict=True)  # layer, sample, head, ..
    rows = [class_attention(torch.from_numpy(q).double(), torch.from_numpy(k).double()) for q, k in layers]
    scores = torch.stack(rows).mean(dim=0)
    assert (scores - torch.from_numpy(CASE["attn_score_map"])).abs().max() < 2e-6


def test_scores_are_the_attention_of_the_class_token_and_the_pass_is_the_towers_own():
    visual = build()
    seen = EmaTower(visual, EmaTowerConfig())(pictures())
    torch.testing.assert_close(seen.scores.flatten(1), watched_scores(visual, pictures()), rtol=0, atol=1e-12)
    torch.testing.assert_close(seen.pooled, encode_image(visual, pictures()).pooled, rtol=0, atol=1e-12)
    assert seen.scores.shape == (3, 4, 4) and (seen.scores.sum(dim=(1, 2)) < 1).all()


def test_nothing_of_the_averaged_tower_has_a_gradient_and_it_starts_as_a_copy():
    visual = build()
    tower = EmaTower(visual, EmaTowerConfig())
    assert not any(p.requires_grad for p in tower.parameters()) and all(p.requires_grad for p in visual.parameters())
    image = pictures().requires_grad_()
    seen = tower(image)
    assert not seen.pooled.requires_grad and not seen.scores.requires_grad
    assert all(torch.equal(value, visual.state_dict()[name]) for name, value in tower.visual.state_dict().items())


def test_half_the_resolution_is_a_quarter_of_the_scores():
    visual = build()
    tower = EmaTower(visual, EmaTowerConfig(shrink=2))
    seen = tower(pictures(16))
    assert seen.scores.shape == (3, 2, 2)
    with torch.no_grad():  # of positions that grow evenly over the picture, the smaller picture's are those in between
        visual.positional_embedding[1:] = torch.arange(4).double().repeat(4)[:, None].expand(-1, 16)
    positions = EmaTower(visual, EmaTowerConfig(shrink=2))._positions(2, 2)
    assert positions[1:, 0].tolist() == pytest.approx([0.5, 2.5] * 2, abs=0.2)
    assert torch.equal(positions[0], visual.positional_embedding[0])
    with pytest.raises(AssertionError):
        tower(pictures(32))


def test_the_momentum_is_the_published_one_and_rises_without_reaching_1():
    start, _, epochs, steps_per_epoch = CASE["sched_params"][:4]
    steps = int(epochs * steps_per_epoch)
    ours = [ema_momentum(float(start), step, steps) for step in range(steps)]
    assert ours == pytest.approx(CASE["sched_momentum"].tolist(), abs=1e-12)
    assert ours[0] == start and all(a < b < 1 for a, b in itertools.pairwise(ours))


def test_the_update_is_the_published_one():
    average, module = (torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(4, 3))]) for _ in range(2))
    average.requires_grad_(False)
    with torch.no_grad():
        average[0].copy_(torch.from_numpy(CASE["ema_state"][0]))
        for online, momentum, state in zip(
            CASE["ema_online"], CASE["ema_momentum"], CASE["ema_state"][1:], strict=True
        ):
            module[0].copy_(torch.from_numpy(online))
            ema_update(average, module, float(momentum))
            assert (average[0] - torch.from_numpy(state)).abs().max() < 1e-6


def test_a_momentum_of_1_freezes_and_of_0_copies():
    average, module = torch.nn.Linear(3, 2).requires_grad_(False), torch.nn.Linear(3, 2)
    before = average.weight.clone()
    ema_update(average, module, 1.0)
    assert torch.equal(average.weight, before)
    ema_update(average, module, 0.0)
    assert torch.equal(average.weight, module.weight) and torch.equal(average.bias, module.bias)


def test_the_first_update_of_a_run_changes_nothing():
    visual = build()
    tower = EmaTower(visual, EmaTowerConfig())
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    tower.update(visual, 0, 10)
    assert all(torch.equal(value, before[name]) for name, value in tower.state_dict().items())


@pytest.mark.parametrize(
    ("vision", "config", "fault"),
    [
        ({"pool_type": "avg"}, {}, "does not stand for the image.*pool_type avg"),
        ({"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2}, {}, "attention pooling"),
        ({"qk_norm": True}, {}, "CustomResidualAttentionBlock"),
        ({}, {"shrink": 3}, "shrink 3 does not divide the patches, got '?4 x 4"),
        ({"layers": (1, 1, 1, 1), "width": 8}, {}, "ModifiedResNet"),
    ],
)
def test_towers_without_a_class_token_to_watch_are_refused(vision, config, fault):
    with pytest.raises(ConfigError, match=fault):
        EmaTower(build(**vision), EmaTowerConfig(**config))
