import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from assets.errors import ConfigError
from tests.training.models.test_gated_tower import (
    CASE,
    HEADS,
    HIDDEN,
    LAYERS,
    SIDES,
    WIDTH,
    assert_published,
    build,
    ones,
    part,
    plain,
    published_block,
    published_block_gates,
    published_gates,
    published_model,
    run,
    soft_gates,
    tower_and_input,
)
from training.models.compaction import (
    CompactBlock,
    TransformerDims,
    build_tower,
    compact,
    compact_layer,
    read_dims,
    set_text_tower,
)
from training.models.gated_tower import gated_image_features, tower_counts
from training.models.gates import GateValues, TowerGates, TowerSizes, count_kept
from training.models.image_pass import encode_image
from training.models.text_pass import encode_text


def dense(compacted, dtype=torch.float64):
    tower = build_tower(compacted.dims).to(dtype)
    tower.load_state_dict(compacted.tensors)
    return tower


def dense_block(block, gates):
    width, heads, units = (int(values.count_nonzero()) for values in gates)
    shared = {"embed_dim": 1, "activation": "gelu", "eps": block.ln_1.eps, "head_width": block.attn.head_dim}
    dims = TransformerDims(width=width, heads=(heads,), units=(units,), **shared)
    small = CompactBlock(dims, 0, causal=False).double()
    small.load_state_dict(compact_layer(block, gates))
    return small


def num_parameters(dims):
    """Of all layers, counted by hand."""
    count = 0
    for heads, units in zip(dims.heads, dims.units, strict=True):
        inner = heads * dims.head_width
        count += 2 * dims.width  # output biases
        count += (2 * dims.width + 3 * inner * (dims.width + 1) + dims.width * inner) if heads else 0
        count += (2 * dims.width + units * (2 * dims.width + 1)) if units else 0
    return count


def test_a_block_is_cut_as_published():
    gates = published_block_gates()
    block = published_block(CASE["cp_block/mha_ffn_z"])
    tensors, published = compact_layer(block, gates), part("cp_block/pruned/")
    assert tensors.keys() == published.keys()
    for name, tensor in published.items():
        assert_published(tensors[name], tensor)
    x = CASE["cp_block/x"].transpose(0, 1)[..., gates.hidden != 0]
    y = dense_block(block, gates)(x).detach().transpose(0, 1)
    assert_published(y, CASE["cp_block/y_pruned"])
    assert_published(y, CASE["cp_block/y_masked"][..., gates.hidden != 0])


def test_a_block_that_lost_all_heads_keeps_its_output_bias():
    gates = published_block_gates()
    gates = gates._replace(heads=torch.zeros_like(gates.heads))
    kept = gates.hidden != 0
    y = dense_block(published_block(), gates)(CASE["cp_block/x"].transpose(0, 1)[..., kept]).detach().transpose(0, 1)
    assert_published(y, CASE["cp_block/y_masked_noheads"][..., kept])
    assert (y - CASE["cp_block/y_refpruned_noheads"]).abs().max() > 1e-3


@pytest.mark.parametrize(("side", "published"), [("image", "img"), ("text", "txt")])
def test_towers_are_cut_to_what_was_published_under_gates(side, published):
    model, gates = published_model(), published_gates(published)
    compacted = compact(model.visual if side == "image" else model, gates)
    assert (compacted.dims.width, compacted.dims.heads, compacted.dims.units) == count_kept(gates)
    features = dense(compacted)(CASE[f"cp_{published}/x"]).detach()
    assert_published(features, CASE[f"cp_{published}/y_masked"])


@pytest.mark.parametrize("side", SIDES)
def test_nothing_changes_where_nothing_is_cut(side):
    model = build()
    tower, value = tower_and_input(model, side)
    compacted = compact(tower, ones())
    whole = {name: tensor for name, tensor in tower.state_dict().items() if not name.startswith(("visual.", "logit"))}
    assert compacted.tensors.keys() == whole.keys()
    assert all(torch.equal(compacted.tensors[name], tensor) for name, tensor in whole.items())
    assert compacted.dims.heads == (HEADS,) * LAYERS and compacted.dims.units == (HIDDEN,) * LAYERS
    torch.testing.assert_close(dense(compacted)(value), plain(model, side, value), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("quick_gelu", [False, True])
def test_a_cut_tower_computes_what_the_gated_one_does(side, quick_gelu):
    model, gates = build(torch.float32, quick_gelu=quick_gelu), soft_gates(torch.float32)
    tower, value = tower_and_input(model, side)
    compacted = compact(tower, gates)
    assert 0 in compacted.dims.heads and 0 in compacted.dims.units
    assert any(heads * compacted.dims.head_width != compacted.dims.width for heads in compacted.dims.heads)
    features = run(tower, value, gates)
    assert (dense(compacted, torch.float32)(value) - features).abs().max() <= 1e-5
    assert (plain(model, side, value) - features).abs().max() > 1e-2


@pytest.mark.parametrize("side", SIDES)
def test_a_cut_tower_has_the_parameters_that_its_dims_say_and_all_learn(side):
    tower, value = tower_and_input(build(), side)
    compacted = compact(tower, soft_gates())
    small, dims = dense(compacted), compacted.dims
    assert sum(parameter.numel() for parameter in small.transformer.parameters()) == num_parameters(dims)
    stem = {"image": 1 + 10 + 3 * 4 * 4 + 4, "text": 7 + 11 + 2}[side]  # class, positions, patches, norms; or tokens
    ends = sum(parameter.numel() for parameter in small.parameters()) - num_parameters(dims)
    assert ends == dims.width * (stem + dims.embed_dim)
    small(value).square().sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


@pytest.mark.parametrize("side", SIDES)
def test_a_stored_tower_comes_back_without_the_original(side, tmp_path):
    tower, value = tower_and_input(build(), side)
    compacted = compact(tower, soft_gates())
    save_file(compacted.tensors, tmp_path / "tower.safetensors")
    (tmp_path / "dims.json").write_text(json.dumps(compacted.dims.model_dump(mode="json")), encoding="utf-8")
    dims = read_dims(json.loads((tmp_path / "dims.json").read_text(encoding="utf-8")))
    assert dims == compacted.dims
    again = build_tower(dims).double()
    again.load_state_dict(load_file(tmp_path / "tower.safetensors"))
    assert torch.equal(again(value), dense(compacted)(value))


@pytest.mark.parametrize("side", SIDES)
def test_the_original_is_left_alone(side):
    tower, _ = tower_and_input(build(), side)
    before = {name: tensor.clone() for name, tensor in tower.state_dict().items()}
    for gates in (ones(), soft_gates()):
        for tensor in compact(tower, gates).tensors.values():
            tensor.fill_(7)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tower.state_dict().items())


@pytest.mark.parametrize("side", SIDES)
def test_a_cut_tower_can_have_gates_and_be_cut_again(side):
    tower, value = tower_and_input(build(), side)
    first = compact(tower, soft_gates())
    small = dense(first)
    gates = TowerGates(TowerSizes(LAYERS, HEADS, WIDTH, HIDDEN), tower_counts(small)).double()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for log_alpha in gates.parameters():
            log_alpha.copy_(torch.randn(log_alpha.shape, generator=generator, dtype=torch.float64))
    settled = gates.settled()
    second = compact(small, settled)
    assert second.dims.width < first.dims.width
    assert (second.dims.width, second.dims.heads, second.dims.units) == count_kept(settled)
    torch.testing.assert_close(dense(second)(value), run(small, value, settled))
    open_again = GateValues(*(torch.ones_like(values) for values in settled))
    torch.testing.assert_close(run(small, value, open_again), small(value))


def test_cut_towers_stand_in_a_model_of_open_clip():
    model, gates = build(), soft_gates()
    visual, image = tower_and_input(model, "image")
    _, text = tower_and_input(model, "text")
    wanted = run(visual, image, gates), run(model, text, gates)
    small_image, small_text = dense(compact(visual, gates)), dense(compact(model, gates))
    model.visual = small_image
    set_text_tower(model, small_text)
    torch.testing.assert_close((model.encode_image(image), model.encode_text(text)), wanted)
    torch.testing.assert_close(encode_text(model, text[:, :6]), wanted[1])
    torch.testing.assert_close(
        encode_image(model.visual, image, torch.arange(9).expand(3, 9)).image_features, wanted[0]
    )
    model.set_grad_checkpointing()
    torch.testing.assert_close((model.encode_image(image), model.encode_text(text)), wanted)


def test_a_text_sees_nothing_behind_its_end():
    tower, text = tower_and_input(build(), "text")
    small = dense(compact(tower, soft_gates()))
    changed = text.clone()
    changed[0, 4:] = 3
    torch.testing.assert_close(small(changed), small(text))
    changed[0, 1] = 7
    assert not torch.allclose(small(changed)[0], small(text)[0])


def test_a_mask_is_obeyed_by_a_tower_that_has_none_of_its_own():
    tower, _ = tower_and_input(build(), "image")
    transformer = dense(compact(tower, ones())).transformer
    x = torch.randn(2, 5, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    mask = torch.full((5, 5), float("-inf")).triu(1)
    torch.testing.assert_close(transformer(x, attn_mask=mask), tower.transformer(x, attn_mask=mask))


@pytest.mark.parametrize("side", SIDES)
def test_a_tower_without_width_is_refused(side):
    tower, _ = tower_and_input(build(), side)
    with pytest.raises(ConfigError, match=r"width is closed.*lower the target sparsity"):
        compact(tower, ones()._replace(hidden=torch.zeros(WIDTH)))


def test_gates_of_other_shapes_are_refused():
    visual, image = tower_and_input(build(), "image")
    with pytest.raises(ConfigError, match="do not fit the tower"):
        compact(visual, ones()._replace(heads=torch.ones(LAYERS, HEADS + 1)))
    small = dense(compact(visual, soft_gates()))
    with pytest.raises(ConfigError, match="or longer rows"):
        gated_image_features(
            small, image, ones()._replace(hidden=torch.ones(small.transformer.width), heads=torch.ones(3, 0))
        )


def test_an_activation_that_dims_cannot_name_is_refused():
    with pytest.raises(ConfigError, match="act_kwargs"):
        compact(build(vision={"act_kwargs": {"approximate": "tanh"}}).visual, ones())


@pytest.mark.parametrize(
    ("change", "fault"),
    [({"heads": [1]}, "as many layers"), ({"kind": "audio"}, "kind"), ({"width": 0}, "width"), ({"depth": 3}, "depth")],
)
def test_dims_that_are_none_are_refused(change, fault):
    dims = compact(build().visual, ones()).dims.model_dump(mode="json")
    with pytest.raises(ConfigError, match=fault):
        read_dims(dims | change)
