"""Begin as another model: which weights are taken over, which stay random, and what is refused."""

import json
import math

import pytest
import torch

from assets.errors import ConfigError
from assets.section import parse
from tests.training.conftest import PARAMS
from tests.training.distillation import BIG, export_of, towers
from tests.training.engine.rank_cases import global_batch, text_facts
from tests.training.frozen_text import flame
from training.config import RecipeConfig
from training.models.build import build_method
from training.models.compact import compact_model
from training.models.dense_export import DenseExport
from training.models.gates import GateValues

SOURCE = {"start": {"source": "run"}}
RESNET = {"kind": "resnet", "layers": [1, 1, 1, 1], "width": 8}


@pytest.fixture(scope="module")
def big(tmp_path_factory) -> DenseExport:
    return export_of(tmp_path_factory.mktemp("start") / "big")


def recipe_of(**changes) -> RecipeConfig:
    return parse(RecipeConfig, PARAMS["recipes"]["clip"] | changes, "recipe")


def begun(source: DenseExport | None, **changes):
    return build_method(recipe_of(**changes), 0, start=source)[0]


def cut(export: DenseExport) -> DenseExport:
    """The same model without the last quarter of its width and one head of each layer."""
    gates = []
    for width, heads, units in ((48, 3, 192), (32, 4, 128)):
        values = torch.ones(width), torch.ones(2, heads), torch.ones(2, units)
        values[0][-width // 4 :] = 0
        values[1][:, 0] = 0
        gates.append(GateValues(*values))
    model, config = compact_model(export.model, export.config, *gates)
    return DenseExport(model, config, export.preprocess)


def test_a_smaller_student_takes_the_leading_corners_and_a_scale_of_its_own(big):
    with torch.no_grad():
        big.model.logit_scale.fill_(3.3)
    method = begun(big, **SOURCE)
    own, theirs = method.model.state_dict(), big.model.state_dict()
    assert torch.equal(own["visual.class_embedding"], theirs["visual.class_embedding"][:32])
    assert torch.equal(own["visual.proj"], theirs["visual.proj"][:32, :16])
    assert torch.equal(own["token_embedding.weight"], theirs["token_embedding.weight"][:, :16])
    assert torch.equal(own["text_projection"], theirs["text_projection"][:16, :16])
    assert own["logit_scale"].item() == pytest.approx(math.log(1 / 0.07))
    assert method.began.facts.keys() == {"image", "text"}
    assert method.began.facts["image"]["teacher"]["width"] == 48
    json.dumps(method.began.facts)  # goes into began.json
    assert method.began.warnings == ()


@pytest.mark.parametrize("side", ["image", "text"])
def test_the_other_tower_begins_as_it_would_without_a_start(big, side):
    own = begun(big, start={"source": "run", "towers": side}).model.state_dict()
    fresh = begun(None).model.state_dict()
    taken = {name for name in own if not torch.equal(own[name], fresh[name])}
    assert taken and {name.startswith("visual.") for name in taken} == {side == "image"}
    assert "logit_scale" not in taken


@pytest.mark.parametrize("how", ["sizes", "start"])
def test_a_student_of_its_sources_sizes_computes_the_same_bit_for_bit(big, how):
    method = begun(big, towers=BIG if how == "sizes" else {"kind": "start"}, **SOURCE).eval()
    batch = global_batch(0)
    image = method.normalize(batch["image"])
    with torch.no_grad():
        assert torch.equal(method.model.encode_image(image), big.model.encode_image(image))
        assert torch.equal(method.model.encode_text(batch["text"]), big.model.encode_text(batch["text"]))
        method.model.visual.proj.zero_()  # a copy
    assert big.model.visual.proj.abs().max() > 0
    taken = method.model.logit_scale.item() == big.model.logit_scale.item()
    assert taken == (how == "start")


def test_rules_of_depth_and_width_are_followed_and_odd_strides_warned_of(big, tmp_path):
    deep = export_of(tmp_path / "deep", BIG | {"vision": {**BIG["vision"], "layers": 3}})
    small = towers(vision={"layers": 2}, text={"layers": 1})
    first, even = (begun(deep, towers=small, start={"source": "run", "depth": depth}) for depth in ("stride", "even"))
    name = "visual.transformer.resblocks.{}.ln_1.weight"
    assert first.began.facts["image"]["layers"] == [[0, 1]]
    assert even.began.facts["image"]["layers"] == [[0, 2]]
    assert len(first.began.warnings) == 1 and first.began.warnings[0].startswith("image tower: ")
    assert even.began.warnings == ()
    with torch.no_grad():
        theirs = deep.model.state_dict()[name.format(0)]
        theirs[:] = torch.arange(48)
    largest = begun(deep, towers=small, start={"source": "run", "width": "magnitude"})
    assert largest.began.facts["image"]["width"] == "magnitude"


def test_only_a_student_of_the_same_towers_begins_as_a_cut_model(big):
    smaller = cut(big)
    method = begun(smaller, towers={"kind": "start"}, **SOURCE).eval()
    text = global_batch(0)["text"]
    with torch.no_grad():
        assert torch.equal(method.model.encode_text(text), smaller.model.encode_text(text))
    assert method.model_config["compact_cfg"] == smaller.config["compact_cfg"]
    with pytest.raises(ConfigError, match=r"other heads and units in each layer.*\{kind: start\}"):
        begun(smaller, **SOURCE)


def test_an_image_tower_for_frozen_text_begins_as_that_of_a_model_with_a_text_tower(big):
    recipe = parse(
        RecipeConfig,
        PARAMS["recipes"]["clip"]
        | flame()
        | {"start": {"source": "run", "towers": "image"}}
        | {"towers": {**flame()["towers"], "vision": {**BIG["vision"], "width": 32}}},
        "recipe",
    )
    method, _ = build_method(recipe, 0, text_facts(), big)
    own, theirs = method.model.state_dict(), big.model.state_dict()
    assert torch.equal(own["visual.class_embedding"], theirs["visual.class_embedding"][:32])
    both = recipe.model_copy(update={"start": recipe.start.model_copy(update={"towers": "both"})})
    with pytest.raises(ConfigError, match=r'text is frozen and inherits nothing.*set start.towers to "image"'):
        build_method(both, 0, text_facts(), big)


def test_a_model_that_saw_pixels_by_another_rule_is_refused(big):
    other = big._replace(preprocess={**big.preprocess, "mean": (0.5,) * 3, "std": (0.5,) * 3})
    for shape in ({}, {"towers": {"kind": "start"}}):
        with pytest.raises(ConfigError, match="pixels with another mean and deviation"):
            begun(other, **shape, **SOURCE)


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"towers": towers(text={"context_length": 12})}, r"start: text tower: .*positions.*context_length"),
        ({"towers": towers(vision={"head_width": 8})}, "start: image tower: .*head"),
        ({"towers": towers(text={"heads": 4})}, "start: text tower: .*head"),
        ({"towers": towers(vision={"layers": 3})}, "start: image tower: .*more layers"),
        ({"towers": towers(vision={"patch_size": 8})}, "start: image tower: .*patch"),
        ({"towers": towers() | {"vision": RESNET}}, "start: image tower: .*vit"),
    ],
)
def test_what_is_no_part_of_its_source_is_refused_with_the_tower_named(big, given, fault):
    with pytest.raises(ConfigError, match=fault):
        begun(big, **given, **SOURCE)


def test_another_activation_is_refused(tmp_path):
    quick = export_of(tmp_path / "quick", quick_gelu=True)
    with pytest.raises(ConfigError, match=r"start: image tower: .*quick_gelu"):
        begun(quick, **SOURCE)
    assert begun(quick, towers={"kind": "start"}, **SOURCE).model_config["quick_gelu"] is True


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"towers": {"kind": "start"}}, "towers of kind start are those of the model in start; add start"),
        (
            {"towers": {"kind": "start"}, "start": {"source": "run", "towers": "image"}},
            "towers of kind start begin with all weights",
        ),
        ({"start": {"source": "model"}}, "source"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(changes, fault):
    with pytest.raises(ConfigError, match=fault):
        recipe_of(**changes)
