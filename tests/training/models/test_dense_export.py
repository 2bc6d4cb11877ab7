import json

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import CLIP, CustomTextCLIP
from safetensors.torch import load_file, save_file

from assets.errors import ConfigError, DataError
from tests.training.models.test_gated_tower import (
    HEADS,
    HIDDEN,
    LAYERS,
    TEXT,
    VISION,
    WIDTH,
    build,
    ones,
    run,
    soft_gates,
    tower_and_input,
)
from training.losses.sparsity import kept_parameters
from training.model_card import model_card
from training.models.build import build_model, build_tokenizer, export_model, image_size
from training.models.compact import build_compact, compact_model, describe_cut
from training.models.dense_export import is_compact_export, load_dense
from training.models.ema_tower import EmaTower
from training.models.frozen_export import is_frozen_text_export, load_export
from training.models.gated_tower import tower_counts, tower_sizes
from training.models.gates import KeptCounts, TowerGates, TowerSizes, count_kept
from training.models.image_pass import encode_image, num_patches
from training.models.masking_config import EmaTowerConfig
from training.models.text_pass import accepts_short_text, encode_text

SIZES = TowerSizes(LAYERS, HEADS, WIDTH, HIDDEN)
CONFIG = {"embed_dim": 6, "vision_cfg": VISION, "text_cfg": TEXT}
WORDS = {"vision_cfg": VISION, "text_cfg": TEXT | {"vocab_size": 49408, "context_length": 9}, "embed_dim": 6}
OPEN_CLIP, OWN, WEIGHTS = "open_clip_config.json", "clipfoundry_config.json", "open_clip_model.safetensors"


def gates_of(tower, seed, kept=None, dtype=torch.float32):
    """Settled gates from random logits."""
    gates = TowerGates(SIZES, kept).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for log_alpha in gates.parameters():
            log_alpha.copy_(torch.randn(log_alpha.shape, generator=generator))
    return gates.settled()


def cut(dtype=torch.float32, config=CONFIG, **options):
    """A model, what it gives under gates, and the cut model with its config."""
    model = build(dtype, **options)
    image, text = soft_gates(dtype), gates_of(model, 5, dtype=dtype)
    wanted = [run(*tower_and_input(model, side), gates) for side, gates in (("image", image), ("text", text))]
    return model, wanted, *compact_model(model, config, image, text)


def features(model):
    image, text = (tower_and_input(model, side)[1] for side in ("image", "text"))
    return [model.encode_image(image), model.encode_text(text)]


def assert_same(actual, wanted, tolerance=1e-5):
    for ours, theirs in zip(actual, wanted, strict=True):
        assert ours.shape == theirs.shape and (ours - theirs).abs().max() <= tolerance


def exported(folder, config=CONFIG):
    _, _, small, smaller = cut(config=config)
    export_model(small.state_dict(), smaller, folder)
    return small.eval(), smaller


def num_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_cut_model_computes_what_the_gated_one_did(dtype):
    model, wanted, small, _ = cut(dtype)
    assert_same(features(small), wanted, 1e-5 if dtype == torch.float32 else 1e-12)
    assert small.logit_scale.dtype == dtype and torch.equal(small.logit_scale, model.logit_scale)
    assert (features(model)[0] - wanted[0]).abs().max() > 1e-2


def test_a_cut_model_has_the_parameters_of_the_formula():
    model, _, small, config = cut()
    total = 1  # logit_scale
    kept = {"image": count_kept(soft_gates(torch.float32)), "text": count_kept(gates_of(model, 5))}
    # class, positions, patches, norms, projection; positions, tokens, norm, projection
    stem = {"image": 1 + 10 + 3 * 4 * 4 + 4 + 6, "text": 7 + 11 + 2 + 6}
    for side, counts in kept.items():
        norms = sum(heads > 0 for heads in counts.heads) + sum(units > 0 for units in counts.units)
        total += kept_parameters(SIZES, counts) + counts.hidden * (2 * norms + stem[side])
    assert num_parameters(small) == total < num_parameters(model)
    assert describe_cut(config)["image"] == (KeptCounts(WIDTH, (HEADS,) * LAYERS, (HIDDEN,) * LAYERS), kept["image"])
    assert describe_cut(config)["text"].after == kept["text"]


def test_the_whole_model_and_its_config_are_left_alone_and_no_memory_is_shared():
    config = json.loads(json.dumps(CONFIG))
    model = build(torch.float32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    small, smaller = compact_model(model, config, ones(torch.float32), ones(torch.float32))
    assert torch.equal(torch.get_rng_state(), state)
    assert config == CONFIG and smaller.keys() == {*CONFIG, "compact_cfg"}
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.fill_(7)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_cut_model_is_cut_again_with_fresh_gates():
    _, _, first, config = cut(torch.float64)
    kept = [tower_counts(tower) for tower in (first.visual, first)]
    gates = [gates_of(first, seed, counts, torch.float64) for seed, counts in enumerate(kept, 7)]
    wanted = [run(*tower_and_input(first, side), own) for side, own in zip(("image", "text"), gates, strict=True)]
    second, again = compact_model(first, config, *gates)
    assert_same(features(second), wanted, 1e-12)
    assert num_parameters(second) < num_parameters(first)
    cuts = describe_cut(again)
    assert [cuts[side].after for side in ("image", "text")] == [count_kept(own) for own in gates]
    assert cuts["image"].before.hidden == WIDTH  # and not what the first cut left
    assert build_compact(again).state_dict().keys() == second.state_dict().keys()


def test_a_cut_model_goes_on_as_the_whole_one_was_trained():
    model = build(torch.float32).eval()
    model.visual.conv1.requires_grad_(False)
    model.transformer.grad_checkpointing = True
    small, _ = compact_model(model, CONFIG, soft_gates(torch.float32), soft_gates(torch.float32))
    assert not small.training
    assert [name for name, weight in small.named_parameters() if not weight.requires_grad] == ["visual.conv1.weight"]
    assert small.transformer.grad_checkpointing and not small.visual.transformer.grad_checkpointing


@pytest.mark.parametrize("options", [{}, {"init_logit_bias": -10.0}, {"quick_gelu": True}, {"custom_text": False}])
def test_a_config_builds_a_model_for_the_weights(options):
    config = CONFIG | options
    model = build_model(config).float()
    small, smaller = compact_model(model, config, soft_gates(torch.float32), soft_gates(torch.float32))
    again = build_model(json.loads(json.dumps(smaller)))
    assert not torch.equal(features(again)[0], features(small)[0])
    again.load_state_dict(small.state_dict())
    assert type(again) is CLIP
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(features(again), features(small), strict=True))
    assert (again.logit_bias is None) == ("init_logit_bias" not in options)
    assert image_size(smaller) == 12


def test_the_tokenizer_is_that_of_the_text_config():
    captions = ["a red square on blue", "x " * 20]
    config = WORDS | {"compact_cfg": {}}
    ours, theirs = build_tokenizer(config), build_tokenizer(WORDS)
    for one, other in zip(ours(captions), theirs(captions), strict=True):
        assert np.array_equal(one, other)


def test_the_passes_of_training_take_cut_towers():
    _, wanted, small, _ = cut(torch.float64)
    (visual, image), (_, text) = (tower_and_input(small, side) for side in ("image", "text"))
    assert accepts_short_text(small) and num_patches(visual) == 9
    assert_same([encode_text(small, text[:, :6])], [wanted[1]], 1e-12)
    found = encode_image(visual, image)
    assert_same([found.image_features], [wanted[0]], 1e-12)
    assert found.pooled.shape == (3, visual.transformer.width) and found.image_token_features.shape[1] == 9


def test_masking_works_on_cut_towers():
    keep = torch.tensor([[0, 4, 5], [8, 2, 1], [3, 6, 7]])
    model = build()
    whole, _ = compact_model(model, CONFIG, ones(), ones())
    visual, image = tower_and_input(model, "image")
    wanted = encode_image(visual, image, keep).image_features
    assert_same([encode_image(whole.visual, image, keep).image_features], [wanted], 1e-12)
    small = cut(torch.float64)[2].visual
    masked = encode_image(small, image, keep).image_features
    assert_same([encode_image(small, image, keep.flip(1)).image_features], [masked], 1e-12)  # order does not matter
    assert (masked - small(image)).abs().max() > 1e-3
    changed = image.clone()
    changed[0, :, :4, 4:8] = 9  # patch 1 of the first picture, which is dropped
    assert torch.equal(encode_image(small, changed, keep).image_features, masked)


def test_an_averaged_tower_that_watches_attention_is_refused():
    with pytest.raises(ConfigError, match="cannot watch the attention of such blocks, got 'CompactBlock'"):
        EmaTower(cut()[2].visual, EmaTowerConfig(momentum=0.9))


def test_an_export_of_a_cut_model_comes_back(tmp_path):
    small, config = exported(tmp_path)
    assert not (tmp_path / OPEN_CLIP).exists()
    assert is_compact_export(tmp_path) and not is_frozen_text_export(tmp_path)
    state = torch.get_rng_state()
    model, stored, preprocess = load_dense(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training and stored == json.loads(json.dumps(config))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(features(model), features(small), strict=True))
    assert preprocess["size"] == (12, 12) and preprocess["resize_mode"] == "shortest"
    assert preprocess["mean"] == pytest.approx([0.4815, 0.4578, 0.4082], abs=1e-4)


@pytest.mark.parametrize("options", [{}, {"custom_text": True}, {"quick_gelu": True}])
def test_an_export_of_open_clip_comes_back_the_same_way(options, tmp_path):
    config = CONFIG | options
    whole = build_model(config).eval()
    export_model(whole.state_dict(), config, tmp_path)
    assert not is_compact_export(tmp_path)
    model, stored, preprocess = load_dense(tmp_path)
    assert isinstance(model, CustomTextCLIP if "custom_text" in options else CLIP) and stored == config
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(features(model), features(whole), strict=True))
    assert preprocess == open_clip.create_model(f"local-dir:{tmp_path}").visual.preprocess_cfg


def test_half_precision_weights_are_loaded_in_full_precision(tmp_path):
    exported(tmp_path)
    tensors = {name: tensor.half() for name, tensor in load_file(tmp_path / WEIGHTS).items()}
    save_file(tensors, tmp_path / WEIGHTS)
    model = load_dense(tmp_path).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("missing", [OWN, WEIGHTS])
def test_a_missing_file_is_named(missing, tmp_path):
    exported(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(DataError, match=rf"holds no model, got .*, wanted {WEIGHTS} with {OPEN_CLIP} or {OWN}; export"):
        load_dense(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        load_dense(tmp_path / "nowhere")


def test_damaged_weights_are_refused(tmp_path):
    exported(tmp_path)
    weights = tmp_path / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(DataError, match="does not load"):
        load_dense(tmp_path)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda model: model["compact_cfg"]["image"].update(width=7), "size mismatch"),
        (lambda model: model["compact_cfg"]["text"]["heads"].__setitem__(0, 1), "size mismatch"),
        (lambda model: model["compact_cfg"]["image"].pop("units"), "cannot be read"),
        (lambda model: model["compact_cfg"].pop("text"), "other parts"),
        (lambda model: model["compact_cfg"].update(text=model["compact_cfg"]["image"]), "wrong side"),
        (lambda model: model["vision_cfg"].update(image_size=24), "image size differs"),
        (lambda model: model["text_cfg"].update(context_length=8), "context length differs"),
        (lambda model: model["text_cfg"].update(vocab_size=12), "vocabulary differs"),
        (lambda model: model.update(embed_dim=8), "embed_dim differs"),
        (lambda model: model.update(depth=8), "depth"),
        (lambda model: model.update(init_logit_bias=0.0), "logit_bias"),
        (lambda model: model.pop("text_cfg"), "text_cfg"),
        (lambda model: model.pop("compact_cfg"), "compact_cfg"),
    ],
)
def test_a_config_of_another_model_is_refused(change, fault, tmp_path):
    exported(tmp_path)
    config = json.loads((tmp_path / OWN).read_text())
    change(config["model_cfg"])
    (tmp_path / OWN).write_text(json.dumps(config))
    with pytest.raises(DataError, match=f"does not load .*{fault}"):
        load_dense(tmp_path)


@pytest.mark.parametrize(
    ("side", "key", "value"), [("vision_cfg", "image_size", 24), ("text_cfg", "context_length", 9)]
)
def test_positions_of_another_size_are_refused_and_not_stretched(side, key, value, tmp_path):
    export_model(build(torch.float32).state_dict(), CONFIG | {side: CONFIG[side] | {key: value}}, tmp_path)
    with pytest.raises(DataError, match=r"does not load .*positional_embedding"):
        load_dense(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"model_cfg": 1}', "{}"])
def test_a_config_that_is_none_is_refused(text, tmp_path):
    exported(tmp_path)
    (tmp_path / OWN).write_text(text)
    for ask in (load_dense, is_compact_export, is_frozen_text_export):
        with pytest.raises(DataError, match="is no config of a model"):
            ask(tmp_path)


def test_frozen_text_and_cut_towers_are_not_taken_for_each_other(tmp_path):
    exported(tmp_path)
    with pytest.raises(DataError, match="has a text tower, and no frozen text; load it with"):
        load_export(tmp_path)
    (tmp_path / OWN).write_text(json.dumps({"model_cfg": {"frozen_text_cfg": {}}}))
    assert is_frozen_text_export(tmp_path) and not is_compact_export(tmp_path)
    with pytest.raises(DataError, match="frozen text, and no text tower; load it with"):
        load_dense(tmp_path)


def test_a_model_with_another_text_side_is_refused():
    model = build_model(CONFIG | {"custom_text": True})
    with pytest.raises(ConfigError, match="cannot cut this model, got 'CustomTextCLIP'"):
        compact_model(model, CONFIG, ones(), ones())


def test_the_card_says_how_to_load_the_model_and_what_was_cut(tmp_path):
    small, config = exported(tmp_path)
    recipe = {"method": {"kind": "distill"}, "towers": {}, "optim": {"lr": 1}, "precision": "fp32"}
    recipe["budget"] = {"samples_seen": 8, "batch_size": 4}
    resolved = {"run": {"recipe": "small", "dataset": "emoji", "policy": "none", "seed": 0}, "recipe": recipe}
    card = model_card("small", resolved, {}, 8, {}, config)
    counts = describe_cut(config)["image"].after
    row = f"| image | {counts.hidden} of {WIDTH} | {', '.join(map(str, counts.heads))} of {HEADS} | "
    assert row + f"{', '.join(map(str, counts.units))} of {HIDDEN} |\n" in card
    assert "open_clip.create_model_and_transforms" not in card and "library_name: clipfoundry" in card
    assert "load_dense" not in model_card("small", resolved, {}, 8, {}, CONFIG)
    snippet = card.split("```python\n")[1].split("```")[0]
    names: dict = {}
    exec(snippet.replace("PATH/TO/THIS/FOLDER", str(tmp_path)), names)
    assert torch.equal(features(names["model"])[0], features(small)[0])
    assert names["tokenizer"](["a"]).shape == (1, 7)


def test_sizes_of_both_towers_are_those_of_the_whole_model():
    assert tower_sizes(build().visual) == SIZES == tower_sizes(build())
