import numpy as np
import pytest
import torch
from open_clip.model import CLIP
from torch import nn

from assets.errors import ConfigError
from tests.training.view_batches import case_a
from training.models.image_pass import _embed_kept, encode_image, num_patches
from training.models.token_select import random_keep

SIZE, PATCH, N = 48, 16, 9
VISION = {"layers": 2, "width": 16, "head_width": 8, "patch_size": PATCH, "image_size": SIZE}
TOWERS = {
    "class token": {},
    "average": {"pool_type": "avg"},
    "norm after pooling": {"final_ln_after_pool": True},
    "norm after the average": {"final_ln_after_pool": True, "pool_type": "avg"},
    "no first norm": {"no_ln_pre": True},
    "fixed positions": {"pos_embed_type": "sin_cos_2d"},
    "normed queries": {"qk_norm": True},
    "tokens too": {"output_tokens": True},
}
ATTENTION_POOLING = {"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2}


def build(vision=None, dtype=torch.float64):
    torch.manual_seed(0)
    text = {"context_length": 8, "vocab_size": 10, "width": 8, "heads": 1, "layers": 1}
    visual = CLIP(embed_dim=12, vision_cfg=VISION | (vision or {}), text_cfg=text).visual.to(dtype)
    with torch.no_grad():
        for parameter in visual.parameters():  # biases start at zero and scales at one, which would hide mistakes
            parameter.add_(torch.randn(parameter.shape, dtype=torch.float64).to(parameter) * 0.1)
    return visual


def pictures(size=(SIZE, SIZE), dtype=torch.float64):
    return torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


@pytest.fixture
def keep():
    return random_keep(torch.arange(3), N, 4)


def masked_pass(visual, image, keep):
    """The full sequence with every attention to a dropped patch forbidden: slow, and without any gathering."""
    x = visual.conv1(image).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], dim=1) + visual.positional_embedding
    x = visual.ln_pre(x)
    rows = []
    for sample, kept in zip(x, keep, strict=True):
        seen = torch.zeros(1 + N, dtype=torch.bool)
        seen[0] = True
        seen[1 + kept] = True
        mask = torch.zeros(1 + N, 1 + N, dtype=x.dtype).masked_fill(~seen, float("-inf"))
        y = visual.transformer(sample[None], attn_mask=mask)[0]
        y = y if visual.final_ln_after_pool else visual.ln_post(y)
        pooled = y[0] if visual.pool_type == "tok" else torch.stack([y[1 + patch] for patch in kept]).mean(dim=0)
        rows.append((visual.ln_post(pooled) if visual.final_ln_after_pool else pooled, y[1 + kept]))
    pooled, tokens = (torch.stack(parts) for parts in zip(*rows, strict=True))
    return pooled @ visual.proj, pooled, tokens


def gradients(visual, features):
    visual.zero_grad()
    features.square().sum().backward()
    return {name: p.grad.clone() for name, p in visual.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("vision", [*TOWERS.values(), ATTENTION_POOLING], ids=[*TOWERS, "attention"])
def test_without_a_choice_it_is_the_tower_bit_for_bit(vision):
    visual, image = build(vision, torch.float32), pictures(dtype=torch.float32)
    expected, got = visual(image), encode_image(visual, image)
    features = expected[0] if visual.output_tokens else expected
    assert torch.equal(got.image_features, features)
    if visual.output_tokens:
        assert torch.equal(got.image_token_features, expected[1])
    assert torch.equal(got.pooled @ visual.proj, features)


def test_a_towers_own_patch_dropout_stays_without_a_choice():
    visual, image = build({"patch_dropout": 0.5}).train(), pictures()
    torch.manual_seed(5)
    expected = visual(image)
    torch.manual_seed(5)
    got = encode_image(visual, image)
    assert torch.equal(got.image_features, expected) and got.image_token_features.shape == (3, 4, 16)


@pytest.mark.parametrize("vision", TOWERS.values(), ids=TOWERS)
def test_dropping_equals_forbidding_attention_to_what_is_dropped(vision, keep):
    visual, image = build(vision), pictures()
    expected, got = masked_pass(visual, image, keep), encode_image(visual, image, keep)
    assert got.image_token_features.shape == (3, 4, 16) and got.image_features.shape == (3, 12)
    for slow, fast in zip(expected, got, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)
    slow, fast = gradients(visual, expected[0]), gradients(visual, got.image_features)
    assert fast.keys() == slow.keys() and len(fast) > 20
    for name, gradient in slow.items():
        torch.testing.assert_close(fast[name], gradient, rtol=1e-8, atol=1e-9, msg=name)


@pytest.mark.parametrize("vision", [*TOWERS.values(), ATTENTION_POOLING], ids=[*TOWERS, "attention"])
def test_keeping_all_patches_in_any_order_equals_the_tower(vision):
    visual, image = build(vision), pictures()
    order = torch.stack([torch.randperm(N, generator=torch.Generator().manual_seed(row)) for row in range(3)])
    whole, got = encode_image(visual, image), encode_image(visual, image, order)
    torch.testing.assert_close(got.image_features, whole.image_features, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(got.pooled, whole.pooled, rtol=1e-10, atol=1e-10)
    if visual.attn_pool is None:
        placed = torch.stack([tokens[kept] for tokens, kept in zip(whole.image_token_features, order, strict=True)])
        torch.testing.assert_close(got.image_token_features, placed, rtol=1e-10, atol=1e-10)


def test_the_order_of_the_kept_patches_does_not_matter(keep):
    visual, image = build(), pictures()
    there, back = encode_image(visual, image, keep), encode_image(visual, image, keep.flip(1))
    torch.testing.assert_close(back.image_features, there.image_features, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(back.image_token_features.flip(1), there.image_token_features, rtol=1e-10, atol=1e-10)


def test_pixels_of_dropped_patches_have_no_influence_and_no_gradient(keep):
    visual, image = build(), pictures().requires_grad_()
    features = encode_image(visual, image, keep).image_features
    features.sum().backward()
    patches = image.grad.reshape(3, 3, 3, PATCH, 3, PATCH).abs().sum(dim=(1, 3, 5)).flatten(1)  # [B, N]
    kept = torch.zeros(3, N, dtype=torch.bool).scatter_(1, keep, True)
    assert (patches[kept] > 0).all() and (patches[~kept] == 0).all()
    noise = ~kept.reshape(3, 1, 3, 1, 3, 1).expand(3, 3, 3, PATCH, 3, PATCH).reshape(image.shape)
    assert torch.equal(encode_image(visual, image + 7 * noise, keep).image_features, features)


def test_a_sample_does_not_depend_on_what_the_others_keep(keep):
    visual, image = build(), pictures()
    alone = encode_image(visual, image[1:2], keep[1:2]).image_features
    torch.testing.assert_close(encode_image(visual, image, keep).image_features[1:2], alone, rtol=1e-10, atol=1e-10)


def test_the_blocks_see_the_class_token_and_the_kept_patches_only(keep):
    visual, seen = build(), []
    visual.transformer.resblocks[0].register_forward_pre_hook(lambda _block, inputs: seen.append(inputs[0].shape))
    visual.conv1.register_forward_pre_hook(lambda *_: seen.append("all patches embedded"))
    encode_image(visual, pictures(), keep)
    assert seen == [(3, 5, 16)]


def test_wide_pictures_with_pixels_to_spare_are_cut_as_the_convolution_cuts_them():
    visual, image = build({"image_size": (35, 50)}), pictures((35, 50))
    assert num_patches(visual) == 6
    got = encode_image(visual, image, torch.arange(6).expand(3, 6)).image_features
    torch.testing.assert_close(got, visual(image), rtol=1e-10, atol=1e-10)


def test_gradient_checkpointing_changes_nothing(keep):
    visual, image = build(), pictures()
    plain = gradients(visual, encode_image(visual, image, keep).image_features)
    runs = []
    visual.transformer.resblocks[0].register_forward_pre_hook(lambda *_: runs.append(1))
    visual.set_grad_checkpointing()
    again = gradients(visual, encode_image(visual, image, keep).image_features)
    assert len(runs) == 2
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=0, atol=0, msg=name)


def test_autocast_is_honoured(keep):
    visual, image = build(dtype=torch.float32), pictures(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        whole, kept = encode_image(visual, image), encode_image(visual, image, torch.arange(N).expand(3, N))
    assert whole.image_features.dtype == kept.image_features.dtype == torch.bfloat16
    torch.testing.assert_close(kept.image_features, whole.image_features, rtol=0.05, atol=0.1)


def test_a_frozen_patch_embedding_gets_no_gradient(keep):
    visual = build()
    visual.conv1.requires_grad_(False)
    assert "conv1.weight" not in gradients(visual, encode_image(visual, pictures(), keep).image_features)


def test_other_towers_run_whole_and_refuse_a_choice(keep):
    resnet, image = build({"layers": (1, 1, 1, 1), "width": 8, "image_size": 64}), pictures((64, 64))
    resnet.eval()  # batch norm would count a second forward
    whole = encode_image(resnet, image)
    assert torch.equal(whole.image_features, resnet(image)) and torch.equal(whole.pooled, whole.image_features)
    assert whole.image_token_features.shape == (3, 0, 12)
    with pytest.raises(ConfigError, match=r"ModifiedResNet.*wanted open_clip's VisionTransformer"):
        encode_image(resnet, image, keep)
    with pytest.raises(ConfigError, match=r"Linear.*masking"):
        num_patches(nn.Linear(2, 2))


def test_a_tower_with_its_own_dropout_refuses_a_second_one(keep):
    with pytest.raises(ConfigError, match=r"by itself \(patch_dropout 0\.5.*masking"):
        encode_image(build({"patch_dropout": 0.5}), pictures(), keep)


def test_an_image_of_another_size_is_our_own_mistake(keep):
    with pytest.raises(AssertionError, match="64"):
        encode_image(build(), pictures((64, 64)), keep)


@pytest.mark.slow
def test_it_compiles_without_a_break():
    torch.compiler.reset()
    visual, image = build({"layers": 1}, torch.float32), pictures(dtype=torch.float32)
    keep = random_keep(torch.arange(3), N, 4)
    compiled = torch.compile(encode_image, fullgraph=True)
    expected, got = encode_image(visual, image, keep), compiled(visual, image, keep)
    torch.testing.assert_close(got.image_features, expected.image_features, rtol=1e-4, atol=1e-5)
    slow, fast = gradients(visual, expected.image_features), gradients(visual, got.image_features)
    for name, gradient in slow.items():
        torch.testing.assert_close(fast[name], gradient, rtol=1e-3, atol=1e-4, msg=name)


def test_the_kept_sequence_is_the_published_one():
    case = case_a()
    patches, positions = (torch.from_numpy(case[name]) for name in ("tok_patch", "tok_pos_embed"))
    visual = build({"width": 6, "head_width": 6, "layers": 1, "patch_size": 2, "image_size": 28}, torch.float32)
    image = torch.zeros(2, 12, 14 * 14)  # of each patch the first six numbers are its embedding
    image[:, :6] = patches.transpose(1, 2)
    image = nn.functional.fold(image, 28, kernel_size=2, stride=2)
    with torch.no_grad():
        visual.conv1.weight.copy_(torch.eye(6, 12).unflatten(1, (3, 2, 2)))
        visual.positional_embedding.copy_(positions[0])
        visual.class_embedding.copy_(torch.from_numpy(case["tok_cls"])[0, 0])
    kept = torch.from_numpy(case["tok_keep_ids"])
    assert not np.take_along_axis(case["tok_drop"], case["tok_keep_ids"], axis=1).any()
    sequence = _embed_kept(visual, image, kept)
    assert (sequence - torch.from_numpy(case["tok_encoder_input"])).abs().max() < 1e-6
    whole = _embed_kept(visual, image, torch.arange(196).expand(2, -1))
    torch.testing.assert_close(visual.ln_pre(whole), visual._embeds(image))
