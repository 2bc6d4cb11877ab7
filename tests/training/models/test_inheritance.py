import json
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.model import CLIP

from assets.errors import ConfigError
from training.models.inheritance import (
    Tower,
    TowerShape,
    depth_choice,
    image_tower,
    inherit_tower,
    text_tower,
    tower_shape,
)

FIXTURE = Path(__file__).parents[2] / "fixtures" / "tinyclip" / "case_a.npz"
with np.load(FIXTURE, allow_pickle=False) as arrays:
    CASE = {name: arrays[name] for name in arrays.files if name.startswith("wi_")}

VIT = {"image_size": 16, "layers": 4, "width": 32, "patch_size": 8, "head_width": 8}
RESNET = {"image_size": 64, "layers": [2, 3, 2, 1], "width": 4, "head_width": 16}
TEXT = {"context_length": 6, "vocab_size": 20, "width": 32, "heads": 4, "layers": 4}


def config(vision=VIT, text=None, embed_dim=12, **other):
    return {"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": TEXT if text is None else text, **other}


def build(settings, seed=0):
    """A model in which no tensor is all alike, batch norm included."""
    torch.manual_seed(seed)
    model = CLIP(**settings).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("num_batches_tracked"):
                tensor.fill_(seed + 3)
            elif tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all()):
                tensor.copy_(torch.rand_like(tensor) + 0.5)
    return model


def inherit(teacher, student, **select):
    """Both towers of a student, as (image, text)."""
    models = [build(settings, seed) for seed, settings in enumerate((teacher, student))]
    towers = [
        [take(model.state_dict(), settings) for take in (image_tower, text_tower)]
        for model, settings in zip(models, (teacher, student), strict=True)
    ]
    return tuple(inherit_tower(*pair, **select) for pair in zip(*towers, strict=True))


def refusal(teacher, student):
    with pytest.raises(ConfigError) as caught:
        inherit(teacher, student)
    return str(caught.value)


def run(model, settings):
    generator = torch.Generator().manual_seed(5)
    size = settings["vision_cfg"]["image_size"]
    images = torch.randn(3, 3, size, size, generator=generator)
    text = torch.randint(1, 20, (3, 6), generator=generator)
    with torch.no_grad():
        return model.encode_image(images), model.encode_text(text)


def indexed(tensors):
    """Tensors that hold the index of each element, offset by a million for each layer, as in the fixture."""
    filled = {}
    for name, tensor in tensors.items():
        layer = int(name.split("resblocks.")[1].split(".")[0]) if "resblocks." in name else 0
        filled[name] = torch.arange(tensor.numel()).reshape(tensor.shape) + 1_000_000 * layer
    return filled


@pytest.mark.parametrize("side", ["img", "txt"])
def test_each_element_comes_from_where_the_published_code_takes_it(side):
    width, _, layers, _, head_width, embed_dim, _, *rest = CASE[f"wi_{side}_cfg"].tolist()
    vision, text = {**VIT, "head_width": 8}, TEXT
    if side == "img":
        vision = dict(zip(("patch_size", "image_size"), rest, strict=True))
        vision |= {"width": width, "layers": layers, "head_width": head_width}
    else:
        text = dict(zip(("vocab_size", "context_length"), rest, strict=True))
        text |= {"width": width, "layers": layers, "heads": width // head_width}
    take = image_tower if side == "img" else text_tower
    settings = config(vision, text, embed_dim)
    teacher = take(indexed(CLIP(**settings).state_dict()), settings)
    wanted = {str(name): CASE[f"wi_{side}/{name}"] for name in CASE[f"wi_{side}_names"]}
    student = Tower({name: torch.empty(values.shape) for name, values in wanted.items()}, head_width, teacher.behaviour)
    inherited = inherit_tower(teacher, student).tensors
    assert inherited.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_array_equal(inherited[name].numpy(), values, err_msg=name)


def test_depth_is_chosen_as_in_the_published_table():
    for teacher_layers, student_layers, *chosen in CASE["wi_depth_table"].tolist():
        assert depth_choice(teacher_layers, student_layers) == tuple(layer for layer in chosen if layer >= 0)


def test_even_depth_goes_from_the_first_layer_to_the_last():
    for teacher_layers in range(1, 25):
        for student_layers in range(2, teacher_layers + 1):
            chosen = depth_choice(teacher_layers, student_layers, "even")
            exact = np.linspace(0, teacher_layers - 1, student_layers)
            assert chosen[0] == 0 and chosen[-1] == teacher_layers - 1
            assert len(set(chosen)) == student_layers
            assert np.abs(np.array(chosen) - exact).max() <= 0.5 + 1e-9
    assert depth_choice(12, 8, "even") == (0, 2, 3, 5, 6, 8, 9, 11)
    assert depth_choice(12, 1, "even") == (0,)


@pytest.mark.parametrize("vision", [VIT, RESNET], ids=["vit", "resnet"])
@pytest.mark.parametrize("select", [{}, {"depth": "even", "width": "magnitude"}], ids=["published", "options"])
def test_a_student_of_equal_shape_is_its_teacher(vision, select):
    settings = config(vision)
    teacher, student = build(settings, 0), build(settings, 1)
    image, text = inherit(settings, settings, **select)
    before = teacher.state_dict()
    tensors = image.tensors | text.tensors
    assert before.keys() - tensors.keys() == {"logit_scale"}
    for name, tensor in tensors.items():
        assert tensor.dtype == before[name].dtype and torch.equal(tensor, before[name]), name
    student.load_state_dict(tensors | {"logit_scale": student.state_dict()["logit_scale"]})
    assert all(torch.equal(*pair) for pair in zip(run(student, settings), run(teacher, settings), strict=True))
    assert not image.warnings and not text.warnings


SMALLER = {
    "vit": ({**VIT, "width": 16, "layers": 2}, [[0, 2]], [[0, 3]]),
    "resnet": ({**RESNET, "width": 2, "layers": [1, 2, 1, 1]}, [[0], [0, 1], [0], [0]], [[0], [0, 2], [0], [0]]),
}


@pytest.mark.parametrize("kind", ["vit", "resnet"])
@pytest.mark.parametrize("depth", ["stride", "even"])
@pytest.mark.parametrize("width", ["front", "magnitude"])
def test_a_student_of_half_width_and_depth_loads_and_runs(kind, depth, width):
    vision, strided, even = SMALLER[kind]
    teacher = config(RESNET if kind == "resnet" else VIT)
    settings = config(vision, {**TEXT, "width": 16, "heads": 2, "layers": 2}, embed_dim=8)
    image, text = inherit(teacher, settings, depth=depth, width=width)
    student = build(settings, 1)
    student.load_state_dict(image.tensors | text.tensors | {"logit_scale": torch.tensor(1.0)})
    assert all(torch.isfinite(features).all() and features.shape == (3, 8) for features in run(student, settings))
    assert image.facts["layers"] == (strided if depth == "stride" else even)
    for facts in (image.facts, text.facts):
        assert json.loads(json.dumps(facts)) == facts
        assert facts["channels"]["embed"] == 8  # both towers keep the same channels of the joint space


def test_the_shapes_are_read_off_the_tensors():
    for vision, wanted in (
        (VIT, TowerShape("vit", 32, (4,), 8)),
        (RESNET, TowerShape("resnet", 4, (2, 3, 2, 1), 16)),
    ):
        model = build(config(vision))
        assert tower_shape(image_tower(model.state_dict(), config(vision))) == wanted
    assert tower_shape(text_tower(model.state_dict(), config())) == TowerShape("text", 32, (4,), 8)


def test_magnitude_finds_the_channels_heads_and_units_that_matter():
    """A teacher in which all but some channels, heads and units are tiny is the same without the tiny ones."""
    keep = {"width": [3, *range(8, 22), 31], "heads": [1, 3], "units": [*range(0, 128, 2)]}
    teacher = build(config()).state_dict()
    for name, tensor in teacher.items():
        if "visual" not in name or tensor.ndim < 2:
            continue
        for axis, size in enumerate(tensor.shape):
            weak = torch.ones(size, dtype=torch.bool)
            if "in_proj" in name and axis == 0:
                weak.view(3, 4, 8)[:, keep["heads"]] = False
            elif "out_proj" in name and axis == 1:
                weak.view(4, 8)[keep["heads"]] = False
            elif size in (32, 128):
                weak[keep["width" if size == 32 else "units"]] = False
            else:
                continue
            tensor.movedim(axis, 0)[weak] *= 1e-3
    settings = config({**VIT, "width": 16}, embed_dim=12)
    student = image_tower(build(settings).state_dict(), settings)
    inherited = inherit_tower(image_tower(teacher, config()), student, width="magnitude")
    channels, tensors = inherited.facts["channels"], inherited.tensors
    assert channels["width"] == keep["width"]
    assert channels["transformer.resblocks.2.heads"] == keep["heads"]
    assert channels["transformer.resblocks.2.units"] == keep["units"]
    block = "visual.transformer.resblocks.2"
    qkv = teacher[f"{block}.attn.in_proj_weight"].reshape(3, 4, 8, 32)[:, keep["heads"]][..., keep["width"]]
    assert torch.equal(tensors[f"{block}.attn.in_proj_weight"], qkv.reshape(48, 16))
    out = teacher[f"{block}.attn.out_proj.weight"].reshape(32, 4, 8)[keep["width"]][:, keep["heads"]]
    assert torch.equal(tensors[f"{block}.attn.out_proj.weight"], out.reshape(16, 16))
    fc = teacher[f"{block}.mlp.c_fc.bias"][keep["units"]]
    assert torch.equal(tensors[f"{block}.mlp.c_fc.bias"], fc)


def test_depths_that_do_not_divide_are_warned_of():
    shallow = config({**VIT, "layers": 3}, {**TEXT, "layers": 2})
    image, text = inherit(config(), shallow)
    (warning,) = image.warnings
    assert "3 layers do not divide the 4 of the vit tower" in warning
    assert "the first 3, none of the last 1; depth even" in warning
    assert not text.warnings
    assert not inherit(config(), shallow, depth="even")[0].warnings
    stages, _ = inherit(config(RESNET), config({**RESNET, "layers": [1, 2, 1, 1]}))
    assert len(stages.warnings) == 1 and "stage 2 of the resnet tower" in stages.warnings[0]


def test_the_student_shares_no_memory_with_its_teacher():
    settings = config()
    tower = image_tower(build(settings).state_dict(), settings)
    for name, tensor in inherit_tower(tower, tower).tensors.items():
        assert tensor.data_ptr() != tower.tensors[name].data_ptr()
        assert tensor.is_contiguous()


@pytest.mark.parametrize(
    ("student", "parts"),
    [
        (config({**VIT, "layers": 5}), ["more layers", "got 5, wanted 1 to 4", "lower the student's layers"]),
        (
            config({**VIT, "width": 40}),
            ["more channels", "in visual.", "(40,)", "(32,)", "lower its width"],
        ),
        (config({**VIT, "mlp_ratio": 5.0}), ["more channels", "c_fc.weight", "(160, 32)", "(128, 32)", "mlp_ratio"]),
        (config(embed_dim=16), ["more channels", "visual.proj", "(32, 16)", "(32, 12)", "embed_dim"]),
        (config({**VIT, "head_width": 16}), ["head_width", "'16'", "'8'", "give the student the teacher's"]),
        (config(text={**TEXT, "heads": 2}), ["text tower", "head_width", "width / heads"]),
        (config({**VIT, "patch_size": 4, "image_size": 8}), ["patch size", "conv1.weight", "patch_size"]),
        (config({**VIT, "image_size": 24}), ["positions", "positional_embedding", "(10, 32)", "(5, 32)", "image_size"]),
        (config(text={**TEXT, "vocab_size": 30}), ["vocabulary", "token_embedding.weight", "(30, 32)", "(20, 32)"]),
        (config(text={**TEXT, "context_length": 5}), ["positions", "(5, 32)", "(6, 32)", "context_length"]),
        (config(quick_gelu=True), ["quick_gelu", "'True'", "'False'", "give the student the teacher's"]),
        (config({**VIT, "pool_type": "avg"}), ["pool_type", "'avg'", "'tok'"]),
        (config(RESNET), ["another kind", "'resnet'", "'vit'"]),
        (config({**VIT, "ls_init_value": 0.1}), ["ls_1.gamma", "student's shape is (32,), the teacher's none"]),
    ],
)
def test_what_is_no_sub_network_is_refused_with_what_to_change(student, parts):
    told = refusal(config(), student)
    for part in parts:
        assert part in told, told


def test_towers_that_have_no_rule_are_refused():
    with pytest.raises(ConfigError, match=r"own ViT, ResNet and text transformer.*visual\.trunk"):
        tower_shape(Tower({"visual.trunk.stem.weight": torch.zeros(2)}, 64))
    tensors = build(config()).state_dict() | {"visual.extra.weight": torch.zeros(4, 4)}
    tower = image_tower(tensors, config())
    with pytest.raises(ConfigError, match=r"visual\.extra\.weight cannot.*\(4, 4\), the teacher's \(4, 4\)"):
        inherit_tower(tower, tower)


def test_widths_that_are_no_multiple_of_the_head_width_are_refused():
    tensors = build(config()).state_dict()
    tower = Tower(image_tower(tensors, config()).tensors, 24)
    with pytest.raises(ConfigError, match=r"no whole number of heads of 24 channels.*attn.*head_width"):
        inherit_tower(tower, tower)
