"""What SLIP, the masked controls, A-CLIP and maskings with other methods have in common."""

import open_clip
import pytest
import torch
from safetensors.torch import load_file

from assets.config import load_machine
from assets.errors import ConfigError
from tests.training.view_batches import RECIPES, TOWERS, with_views
from training.config import load_recipe
from training.engine.checkpoint import Checkpoints, TrainState
from training.engine.clock import TrainClock
from training.engine.distributed import World
from training.engine.flops import FlopsProbe
from training.engine.step import Stepper
from training.models.build import build_method
from training.pretrain import Paths, pretrain

CPU = torch.device("cpu")


def file_of(params, recipe, **changes):
    return params(**{f"recipes.clip.{key}": value for key, value in (recipe | changes).items()})


def method_of(params, recipe, **changes):
    return build_method(load_recipe(file_of(params, recipe, **changes), "clip"), 0)[0]


def stepper_of(params, recipe, **changes):
    file = file_of(params, recipe, **changes)
    loaded = load_recipe(file, "clip")
    return Stepper(build_method(loaded, 0)[0], loaded, load_machine(file), World(0, 1, CPU), 0)


@pytest.mark.parametrize("case", RECIPES)
def test_three_steps_lower_the_loss(case, params, colour_batch):
    stepper, clock = stepper_of(params, RECIPES[case]), TrainClock({}, CPU)
    batch = with_views(colour_batch, stepper.method.needs())
    losses = [stepper.step(batch, step, clock).values["loss"] for step in range(4)]
    assert losses[3] < losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["slip", "random_mask", "aclip", "aclip_eff", "attentive_siglip"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(case, params, colour_batch, tmp_path):
    whole, clock = stepper_of(params, RECIPES[case]), TrainClock({}, CPU)
    batches = [with_views(colour_batch, whole.method.needs(), step) for step in range(4)]
    for step, batch in enumerate(batches):
        whole.step(batch, step, clock)
    first = stepper_of(params, RECIPES[case])
    for step in range(2):
        first.step(batches[step], step, clock)
    store = Checkpoints(tmp_path / "checkpoints", keep=1)
    store.save(TrainState(first.method, first.optimizer, first.average).snapshot(), {"step": 2})
    store.wait()
    second = stepper_of(params, RECIPES[case])
    assert store.load(TrainState(second.method, second.optimizer, second.average)) == 2
    for step in (2, 3):
        second.step(batches[step], step, clock)
    expected = whole.method.state_dict()
    assert expected.keys() == second.method.state_dict().keys()
    assert all(torch.equal(value, expected[name]) for name, value in second.method.state_dict().items())


@pytest.mark.parametrize("case", ["random_mask", "aclip", "oracle_clip"])
def test_evaluation_sees_all_patches_and_plain_colours(case, params, colour_batch):
    method = method_of(params, RECIPES[case])
    batch = with_views(colour_batch, method.needs())
    masked, whole = method.train().encode_images(batch), method.eval().encode_images(batch)
    assert masked.image_token_features.shape[1] < 16 == whole.image_token_features.shape[1]
    other = {**batch, "seed": batch["seed"] + 1, "image_box": batch.get("image_box", batch["seed"]) * 0}
    assert torch.equal(method.encode_images(other).image_features, whole.image_features)
    torch.testing.assert_close(method.model.encode_image(method.normalize(batch["image"])), whole.image_features)


def test_every_sample_keeps_as_many_patches_as_the_recipe_says(params, colour_batch):
    counts = {}
    for kind in ("random", "attentive", "inverse", "oracle"):
        ema = None if kind in ("random", "oracle") else {"momentum": 0.9}
        masking = {"kind": kind, "keep": 0.5, "block": 2, "rounding": "plus_one"}
        method = method_of(params, {"towers": TOWERS}, masking=masking, ema_tower=ema)
        counts[kind] = method.encode_images(with_views(colour_batch, method.needs())).image_token_features.shape[1]
    assert set(counts.values()) == {4 * 3}  # 4 blocks, half of them and one


@pytest.mark.parametrize("kind", ["random", "attentive", "oracle"])
def test_the_end_of_the_budget_can_be_unmasked(kind, params, colour_batch):
    masking = {"kind": kind, "block": 2, "unmasked_tail": 0.25}
    method = method_of(
        params, {"towers": TOWERS}, masking=masking, ema_tower={"momentum": 0.9} if kind == "attentive" else None
    )
    batch = with_views(colour_batch, method.needs())
    kept = []
    for step in range(8):
        method.before_step(step, 8)
        kept.append(method.encode_images(batch).image_token_features.shape[1])
    assert kept[0] < 16 and kept == [kept[0]] * 6 + [16] * 2


@pytest.mark.slow
def test_the_ema_tower_follows_once_per_step_also_in_parts(params, colour_batch):
    states = []
    for rows in (0, 3):
        file = params(**{f"recipes.clip.{k}": v for k, v in RECIPES["aclip"].items()}, **{"machine.micro_batch": rows})
        recipe = load_recipe(file, "clip")
        stepper = Stepper(build_method(recipe, 0)[0], recipe, load_machine(file), World(0, 1, CPU), 0)
        batch = with_views(colour_batch, stepper.method.needs())
        for step in range(3):
            stepper.step(batch, step, TrainClock({}, CPU))
        states.append(stepper.method.ema_tower.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], atol=2e-6, rtol=0, msg=name)


def test_operations_are_counted_without_running_anything(params, colour_batch):
    counted = {}
    for case in ("slip", "random_mask", "aclip", "aclip_eff"):
        method = method_of(params, RECIPES[case])
        counted[case] = FlopsProbe(method).count(with_views(colour_batch, method.needs()), 0)
    assert counted["random_mask"] < counted["aclip_eff"] < counted["aclip"] < counted["slip"]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["slip", "aclip"])
def test_a_compiled_encode_takes_the_same_steps(case, params, colour_batch):
    torch.compiler.reset()
    losses = []
    for compile_ in ("never", "always"):
        file = params(**{f"recipes.clip.{k}": v for k, v in RECIPES[case].items()}, **{"machine.compile": compile_})
        recipe = load_recipe(file, "clip")
        stepper = Stepper(build_method(recipe, 0)[0], recipe, load_machine(file), World(0, 1, CPU), 0)
        batch = with_views(colour_batch, stepper.method.needs())
        losses.append([stepper.step(batch, step, TrainClock({}, CPU)).values["loss"] for step in range(3)])
    assert losses[1] == pytest.approx(losses[0], abs=1e-3)


@pytest.mark.parametrize(
    ("recipe", "fault"),
    [
        ({"masking": {"kind": "attentive"}, "towers": TOWERS}, r"masking kind attentive.*has none; add .ema_tower"),
        ({"ema_tower": {}, "towers": TOWERS}, "nothing in the recipe uses its ema_tower"),
        ({"method": {"kind": "aclip"}, "towers": TOWERS}, r"method aclip learns from an averaged tower.*weight"),
        ({"masking": {"kind": "random", "block": 3}, "towers": TOWERS}, r"block 3 does not divide.*4 x 4"),
        (
            {"masking": {"kind": "random", "keep": 0.05}, "towers": TOWERS},
            "leaves none of the 16 blocks.*at least 0.0625",
        ),
        ({"masking": {"kind": "random", "keep": 1}, "towers": TOWERS}, r"all of the 16 blocks.*\"kind\": \"none\""),
        ({"masking": {"kind": "attentive", "keep": 0}}, "masking.*keep"),
        ({"masking": {"kind": "attentive", "bloc": 1}}, "unknown key 'bloc'.*did you mean 'block'"),
    ],
)
def test_what_does_not_go_together_is_refused(params, recipe, fault):
    with pytest.raises(ConfigError, match=fault):
        method_of(params, recipe)


def test_a_frozen_patch_embedding_stays_as_it_was_drawn(params, colour_batch):
    stepper = stepper_of(params, RECIPES["aclip_eff"])
    before = stepper.method.model.visual.conv1.weight.clone()
    batch = with_views(colour_batch, stepper.method.needs())
    for step in range(3):
        stepper.step(batch, step, TrainClock({}, CPU))
    assert torch.equal(stepper.method.model.visual.conv1.weight, before)
    assert stepper.method.model.visual.conv1.weight.grad is None


@pytest.mark.parametrize("case", ["slip", "aclip_eff"])
def test_a_run_reads_the_views_it_wants_and_exports_a_plain_model(case, toy_data, params, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = Paths(*toy_data, tmp_path / "model", tmp_path / "log")
    pretrain("toy-s0", file_of(params, RECIPES[case], budget={"samples_seen": 48, "batch_size": 16}), paths)
    model = open_clip.create_model(f"local-dir:{tmp_path / 'model'}")
    weights = load_file(tmp_path / "model" / "open_clip_model.safetensors")
    assert weights.keys() == model.state_dict().keys() - {"attn_mask"}
    curve = (tmp_path / "log/plots/metrics/train/simclr_loss.tsv").read_text().splitlines()
    assert len(curve) == 1 + 3
