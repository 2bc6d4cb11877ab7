from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.model import CLIP
from open_clip.transformer import ResidualAttentionBlock

from assets.errors import ConfigError
from training.models.gated_tower import (
    LayerGates,
    gated_block,
    gated_image_features,
    gated_norm,
    gated_text_features,
    tower_counts,
    tower_sizes,
)
from training.models.gates import GateValues, TowerGates, TowerSizes

FIXTURE = Path(__file__).parents[2] / "fixtures" / "tinyclip" / "case_a.npz"
with np.load(FIXTURE, allow_pickle=False) as arrays:
    CASE = {name: torch.from_numpy(arrays[name]) for name in arrays.files if name.startswith("cp_")}

LAYERS, HEADS, WIDTH, HIDDEN = 3, 4, 16, 32
VISION = {"layers": LAYERS, "width": WIDTH, "head_width": 4, "mlp_ratio": 2.0, "patch_size": 4, "image_size": 12}
TEXT = {"layers": LAYERS, "width": WIDTH, "heads": HEADS, "mlp_ratio": 2.0, "context_length": 7, "vocab_size": 11}
SIDES = ["image", "text"]


def assert_published(actual, published):
    assert actual.shape == published.shape
    assert bool(((actual - published).abs() <= 1e-9 * (1 + published.abs())).all())


def part(prefix):
    return {name.removeprefix(prefix): array for name, array in CASE.items() if name.startswith(prefix)}


def published_block(layer_gates=(1.0, 1.0)):
    """The block of the fixture; gates on whole layers, which we do not have, are multiplied into its outputs."""
    weights = part("cp_block/w/")
    hidden, width = weights["mlp.c_fc.weight"].shape
    block = ResidualAttentionBlock(width, len(CASE["cp_block/heads_z"]), mlp_ratio=hidden / width).double()
    for name, gate in zip(("attn.out_proj", "mlp.c_proj"), layer_gates, strict=True):
        weights |= {f"{name}.{kind}": weights[f"{name}.{kind}"] * gate for kind in ("weight", "bias")}
    block.load_state_dict(weights)
    return block


def published_block_gates():
    return LayerGates(CASE["cp_block/hidden_z"], CASE["cp_block/heads_z"], CASE["cp_block/inter_z"])


def published_model():
    image, text = part("cp_img/w/"), part("cp_txt/w/")
    width, _, patch, _ = image["visual.conv1.weight"].shape
    layers, heads = CASE["cp_img/heads_loga"].shape
    vision_cfg = {"layers": layers, "width": width, "head_width": width // heads, "patch_size": patch}
    vision_cfg |= {
        "image_size": CASE["cp_img/x"].shape[-1],
        "mlp_ratio": CASE["cp_img/intermediate_loga"].shape[1] / width,
    }
    layers, heads = CASE["cp_txt/heads_loga"].shape
    vocab_size, width = text["token_embedding.weight"].shape
    text_cfg = {"layers": layers, "width": width, "heads": heads, "vocab_size": vocab_size}
    text_cfg |= {"context_length": len(text["positional_embedding"])}
    text_cfg |= {"mlp_ratio": CASE["cp_txt/intermediate_loga"].shape[1] / width}
    model = CLIP(embed_dim=text["text_projection"].shape[1], vision_cfg=vision_cfg, text_cfg=text_cfg).double()
    model.load_state_dict(image | text | {"logit_scale": model.logit_scale.detach()})
    return model


def published_gates(tower):
    return GateValues(*(CASE[f"cp_{tower}/mask_{kind}_z"] for kind in ("hidden", "heads", "intermediate")))


def build(dtype=torch.float64, vision=None, text=None, quick_gelu=False):
    torch.manual_seed(0)
    model = CLIP(embed_dim=6, vision_cfg=VISION | (vision or {}), text_cfg=TEXT | (text or {}), quick_gelu=quick_gelu)
    model = model.to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():  # biases start at zero and scales at one, which would hide mistakes
            parameter.add_(torch.randn(parameter.shape, dtype=torch.float64).to(parameter) * 0.1)
    return model


def tower_and_input(model, side):
    generator = torch.Generator().manual_seed(1)
    if side == "image":
        return model.visual, torch.randn(3, 3, 12, 12, generator=generator, dtype=torch.float64).to(model.logit_scale)
    return model, torch.tensor([[8, 1, 2, 10, 0, 0, 0], [8, 3, 4, 5, 6, 10, 0], [8, 10, 0, 0, 0, 0, 0]])


def run(tower, value, gates):
    return (gated_text_features if value.dtype == torch.int64 else gated_image_features)(tower, value, gates)


def plain(model, side, value):
    return model.encode_image(value) if side == "image" else model.encode_text(value)


def ones(dtype=torch.float64):
    shapes = ((WIDTH,), (LAYERS, HEADS), (LAYERS, HIDDEN))
    return GateValues(*(torch.ones(shape, dtype=dtype) for shape in shapes))


def soft_gates(dtype=torch.float64):
    """Soft gates with some closed, a layer without heads and another without units."""
    generator = torch.Generator().manual_seed(2)
    gates = GateValues(*(torch.rand(values.shape, generator=generator, dtype=dtype) * 0.6 + 0.4 for values in ones()))
    for values in gates:
        values[torch.rand(values.shape, generator=generator) < 0.3] = 0
    gates.heads[1] = 0
    gates.units[2] = 0
    return gates


def slow_norm(norm, x, hidden):
    kept = hidden.nonzero()[:, 0]
    normed = torch.nn.functional.layer_norm(x[..., kept], (len(kept),), norm.weight[kept], norm.bias[kept], norm.eps)
    return torch.zeros_like(x).index_copy(-1, kept, normed)


def slow_block(block, x, gates, causal):
    """Gates multiplied into activations, head by head."""
    y, outputs, width = slow_norm(block.ln_1, x, gates.hidden), [], block.attn.head_dim
    for head, gate in enumerate(gates.heads):
        rows = slice(head * width, (head + 1) * width)
        q, k, v = (
            y @ weight[rows].T + bias[rows]
            for weight, bias in zip(block.attn.in_proj_weight.chunk(3), block.attn.in_proj_bias.chunk(3), strict=True)
        )
        scores = q @ k.transpose(1, 2) / width**0.5
        if causal:
            scores = scores.masked_fill(torch.ones(scores.shape[1:], dtype=torch.bool).triu(1), float("-inf"))
        outputs.append(scores.softmax(dim=-1) @ v * gate)
    x = x + block.attn.out_proj(torch.cat(outputs, dim=-1)) * gates.hidden
    units = block.mlp.gelu(block.mlp.c_fc(slow_norm(block.ln_2, x, gates.hidden))) * gates.units
    return x + block.mlp.c_proj(units) * gates.hidden


@pytest.mark.parametrize("heads_left", [True, False])
def test_a_block_under_gates_gives_what_was_published(heads_left):
    gates, x = published_block_gates(), CASE["cp_block/x"].transpose(0, 1)
    if heads_left:
        block, wanted = published_block(CASE["cp_block/mha_ffn_z"]), CASE["cp_block/y_masked"]
    else:
        gates = gates._replace(heads=torch.zeros_like(gates.heads))
        block, wanted = published_block(), CASE["cp_block/y_masked_noheads"]
    assert_published(gated_block(block, x, gates).detach().transpose(0, 1), wanted)


@pytest.mark.parametrize(("side", "published"), [("image", "img"), ("text", "txt")])
def test_towers_under_gates_give_what_was_published(side, published):
    model = published_model()
    tower = model.visual if side == "image" else model
    features = run(tower, CASE[f"cp_{published}/x"], published_gates(published)).detach()
    assert_published(features, CASE[f"cp_{published}/y_masked"])
    # the published pruning scaled the last projection once more, which is not to be followed
    assert (features - CASE[f"cp_{published}/y_refpruned"]).abs().max() > 1e-3


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_with_all_gates_open_a_tower_is_itself(side, dtype):
    model = build(dtype)
    tower, value = tower_and_input(model, side)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-13
    features = run(tower, value, ones(dtype))
    torch.testing.assert_close(features, plain(model, side, value), rtol=tolerance, atol=tolerance * 5)


def test_text_may_be_trimmed():
    tower, text = tower_and_input(build(), "text")
    torch.testing.assert_close(run(tower, text[:, :6], soft_gates()), run(tower, text, soft_gates()))


@pytest.mark.parametrize("causal", [True, False])
def test_gradients_are_those_of_gates_on_activations(causal):
    block = build().transformer.resblocks[0]
    values = soft_gates()
    gates = LayerGates(*(gate.clone().requires_grad_() for gate in (values.hidden, values.heads[0], values.units[0])))
    x = torch.randn(2, 5, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * values.hidden
    x.requires_grad_()
    weighting = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    wanted_of = [x, *gates, *block.parameters()]
    fast, slow = gated_block(block, x, gates, causal), slow_block(block, x, gates, causal)
    torch.testing.assert_close(fast, slow)
    ours, theirs = (torch.autograd.grad((y * weighting).sum(), wanted_of) for y in (fast, slow))
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their)


def test_a_norm_ignores_dims_that_are_closed():
    norm = torch.nn.LayerNorm(6, dtype=torch.float64)
    hidden = torch.tensor([1.0, 0.5, 0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    y = gated_norm(norm, torch.tensor([4.0, 2.0, 9.0, 8.0, 0.0, 6.0], dtype=torch.float64), hidden).detach()
    kept = y[hidden != 0]
    assert y[hidden == 0].tolist() == [0, 0]
    assert float(kept.mean()) == pytest.approx(0, abs=1e-9)
    assert float(kept.var(correction=0)) == pytest.approx(1, abs=1e-4)  # and not scaled by the soft gate


@pytest.mark.parametrize("side", SIDES)
def test_gradients_reach_the_logits_of_all_gates_and_all_weights(side):
    model = build()
    tower, value = tower_and_input(model, side)
    gates = TowerGates(tower_sizes(tower)).double()
    with torch.no_grad():
        for log_alpha in gates.parameters():
            log_alpha.zero_()
    draws = gates.draw_noise(0, 0, 0, 0)
    noise = draws._replace(**{name: draw * 0 + 0.5 for name, draw in draws._asdict().items()})
    run(tower, value, gates.sample(noise)).square().sum().backward()
    for log_alpha in gates.parameters():
        assert bool((log_alpha.grad != 0).all())
    used = tower if side == "image" else model.transformer
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in used.parameters())


@pytest.mark.parametrize("side", SIDES)
def test_recomputing_activations_changes_nothing(side):
    model, results = build(), []
    tower, value = tower_and_input(model, side)
    for again in (False, True):
        model.set_grad_checkpointing(again)
        gates = GateValues(*(values.requires_grad_() for values in soft_gates()))
        features = run(tower, value, gates)
        results.append([features, *torch.autograd.grad(features.square().sum(), gates)])
    for kept, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(kept, recomputed)


@pytest.mark.parametrize("side", SIDES)
def test_half_precision_weights_take_gates_of_full_precision(side):
    exact, rough = (
        run(*tower_and_input(build(dtype), side), soft_gates(torch.float32)).detach()
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert rough.dtype == torch.bfloat16
    assert float((rough - exact).norm() / exact.norm()) < 0.05


@pytest.mark.parametrize("side", SIDES)
def test_autocast_gives_the_precision_that_the_plain_tower_gets(side):
    model = build(torch.float32)
    tower, value = tower_and_input(model, side)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        gated, ungated = run(tower, value, ones(torch.float32)), plain(model, side, value)
    assert gated.dtype == ungated.dtype
    assert float((gated - ungated).norm() / ungated.norm()) < 0.02


def test_sizes_are_read_from_a_tower():
    model = build(vision={"layers": 2, "width": 24, "head_width": 8})
    assert tower_sizes(model.visual) == TowerSizes(layers=2, heads=3, width=24, units=48)
    assert tower_counts(model) == (WIDTH, (HEADS,) * LAYERS, (HIDDEN,) * LAYERS)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    ("kind", "shape"),
    [("hidden", (WIDTH + 1,)), ("heads", (LAYERS, 1)), ("heads", (LAYERS, HEADS + 1)), ("units", (LAYERS - 1, HIDDEN))],
)
def test_gates_of_other_shapes_are_refused(side, kind, shape):
    tower, value = tower_and_input(build(), side)
    with pytest.raises(ConfigError, match="do not fit the tower") as error:
        run(tower, value, ones()._replace(**{kind: torch.ones(shape)}))
    assert str(shape) in str(error.value)


@pytest.mark.parametrize(
    ("side", "setting"),
    [
        ("image", {"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2}),
        ("image", {"pool_type": "avg"}),
        ("image", {"no_ln_pre": True}),
        ("image", {"patch_dropout": 0.5}),
        ("image", {"qk_norm": True}),
        ("image", {"ls_init_value": 0.1}),
        ("text", {"ls_init_value": 0.1}),
        ("text", {"pool_type": "last"}),
        ("text", {"no_causal_mask": True}),
        ("text", {"proj_bias": True}),
    ],
)
def test_towers_that_are_not_plain_are_refused(side, setting):
    model = build(**{"vision" if side == "image" else "text": setting})
    with pytest.raises(ConfigError, match=r"cannot have gates.*use a plain CLIP tower"):
        tower_counts(model.visual if side == "image" else model)


def test_something_else_is_refused():
    with pytest.raises(ConfigError, match="Linear"):
        tower_counts(torch.nn.Linear(2, 2))
