"""Affinity mimicking with a teacher that is run on every batch: what is learnt from it, and what it is shown."""

import math

import pytest
import torch

from assets.config import load_machine
from assets.errors import ConfigError
from tests.training.conftest import PARAMS
from tests.training.distillation import AFFINITY, BIG, export_of, online, towers
from tests.training.engine.rank_cases import global_batch
from training.config import load_recipe
from training.data.colour import change_colours
from training.data.loader import StepDataset, ViewPlan
from training.data.order import SampleOrder
from training.data.pairs import load_pairs
from training.engine.accumulate import total_loss, two_pass_forward
from training.engine.checkpoint import TrainState
from training.engine.clock import TrainClock
from training.engine.distributed import World
from training.engine.flops import FlopsProbe
from training.engine.gather import GatheredFeatures
from training.engine.holdout import holdout_scores
from training.engine.step import Stepper
from training.losses.affinity import TeacherSide, affinity_loss
from training.losses.info_nce import info_nce_loss
from training.models.build import build_method, build_tokenizer
from training.teachers.source import TEACHER_FEATURES, TEACHER_IMAGE, TEACHER_TEXT

HERE = World(0, 1, torch.device("cpu"))
OPTIM = PARAMS["recipes"]["clip"]["optim"]


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """A teacher's model, wider and deeper than the toy recipe's."""
    return export_of(tmp_path_factory.mktemp("big") / "big")


@pytest.fixture
def method_of(params):
    """Return a function that builds the toy recipe with distillation and some changes."""

    def build(teacher, method=None, source=None, **changes):
        given = {f"recipes.clip.{name}": value for name, value in changes.items()}
        file = params(**{"recipes.clip.method": AFFINITY | (method or {}), **given})
        return build_method(load_recipe(file, "clip"), 0, start=source, teacher=teacher)[0]

    return build


@pytest.fixture
def stepper_of(params):
    """Return a function that builds what steps such a recipe."""

    def build(teacher, micro_batch=0, **changes):
        given = {f"recipes.clip.{name}": value for name, value in changes.items()}
        file = params(**{"recipes.clip.method": AFFINITY, "machine.micro_batch": micro_batch, **given})
        recipe = load_recipe(file, "clip")
        return Stepper(build_method(recipe, 0, teacher=teacher)[0], recipe, load_machine(file), HERE, 0)

    return build


def features_of(method, batch) -> GatheredFeatures:
    return GatheredFeatures(method.encode(method.enrich(batch)), slice(0, len(batch["image"])))


def steps_of(stepper, count: int) -> list[dict[str, float]]:
    return [stepper.step(global_batch(step), step, TrainClock({}, HERE.device)).values for step in range(count)]


def test_the_students_scale_is_the_constant_from_the_first_step_to_the_export(stepper_of, big):
    stepper = stepper_of(online(big))
    values = steps_of(stepper, 4)
    assert [each["logit_scale"] for each in values] == [50.0] * 4
    exported = stepper.method.model.state_dict()["logit_scale"]
    assert exported.item() == torch.tensor(math.log(50.0)).item()
    assert values[3]["loss"] == values[3]["affinity_loss"]
    assert values[0]["teacher_divergence"] == pytest.approx(values[0]["loss"] - values[0]["teacher_entropy"], abs=1e-5)


def test_a_scale_that_is_learnt_starts_as_clips_and_moves(stepper_of, big):
    stepper = stepper_of(online(big), method=AFFINITY | {"logit_scale": None})
    values = steps_of(stepper, 2)
    assert values[0]["logit_scale"] == pytest.approx(1 / 0.07)
    assert values[1]["logit_scale"] != values[0]["logit_scale"]


def test_training_brings_the_student_nearer_to_its_teacher(stepper_of, big):
    stepper = stepper_of(online(big), optim={**OPTIM, "lr": 3e-3})
    batch = global_batch(0)
    values = [stepper.step(batch, step, TrainClock({}, HERE.device)).values for step in range(12)]
    assert 0 < values[-1]["teacher_divergence"] < 0.7 * values[0]["teacher_divergence"]


def test_no_share_of_affinity_is_info_nce_at_the_constant_scale(method_of, big):
    method = method_of(online(big), {"affinity_share": 0.0})
    features = features_of(method, global_batch(0))
    output = method.losses(features, 0)
    wanted = info_nce_loss(features["image_features"], features["text_features"], 50.0)
    assert output.losses.keys() == {"contrastive_loss"}
    assert output.losses["contrastive_loss"].item() == wanted.item()


def test_shares_weigh_the_two_losses(method_of, big):
    teacher = online(big)
    whole, none, part = (method_of(teacher, {"affinity_share": share}) for share in (1.0, 0.0, 0.25))
    features = features_of(whole, global_batch(0))
    affinity = whole.losses(features, 0).losses["affinity_loss"]
    contrastive = none.losses(features, 0).losses["contrastive_loss"]
    wanted = 0.25 * affinity + 0.75 * contrastive
    torch.testing.assert_close(total_loss(part.losses(features, 0)), wanted, atol=1e-5, rtol=1e-6)


def test_affinity_alone_does_not_know_which_text_is_whose(method_of, big):
    method = method_of(online(big))
    batch = global_batch(0)
    output = method.losses(features_of(method, batch), 0)
    shuffled = method.losses(features_of(method, {**batch, "text": batch["text"].roll(3, dims=0)}), 0)
    assert output.losses.keys() == {"affinity_loss"}
    torch.testing.assert_close(shuffled.losses["affinity_loss"], output.losses["affinity_loss"], atol=1e-5, rtol=1e-5)
    labels = [
        info_nce_loss(features["image_features"], features["text_features"], 50.0)
        for features in (
            features_of(method, batch),
            features_of(method, {**batch, "text": batch["text"].roll(3, dims=0)}),
        )
    ]
    assert abs(labels[0] - labels[1]) > 1e-3


def test_a_student_that_begins_as_its_teacher_has_nothing_to_learn(method_of, big):
    method = method_of(online(big), source=big, towers={"kind": "start"}, start={"source": "teacher"})
    output = method.losses(features_of(method, global_batch(0)), 0)
    assert output.logs["teacher_divergence"].item() == pytest.approx(0, abs=1e-5)
    total_loss(output).backward()
    assert max(p.grad.abs().max().item() for p in method.parameters() if p.grad is not None) < 1e-4
    with torch.no_grad():  # its weights are copies
        method.model.visual.proj.zero_()
    assert big.model.visual.proj.abs().max() > 0


def test_the_teacher_stays_as_it_is_and_is_in_no_checkpoint(stepper_of, big):
    before = {name: value.clone() for name, value in big.model.state_dict().items()}
    stepper = stepper_of(online(big), optim={**OPTIM, "weight_decay": 0.5, "ema_decay": 0.5})
    steps_of(stepper, 3)
    after = big.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not big.model.training and all(p.grad is None for p in big.model.parameters())
    files = TrainState(stepper.method, stepper.optimizer, stepper.average).snapshot()
    own = {name for name in files["method"] if not name.startswith("model.")}
    assert own == set()
    trained = {name for group in stepper.optimizer.param_groups for name in group["names"]}
    assert trained == {name for name, p in stepper.method.model.named_parameters(prefix="model") if p.requires_grad}
    widths = {value.shape[-1] for value in files["method"].values() if value.ndim == 2}
    assert 24 not in widths  # the teacher's embed_dim


def test_a_teacher_of_another_image_size_sees_the_same_crop_at_its_size(method_of, toy_data, tmp_path):
    large = export_of(tmp_path / "large", BIG | {"image_size": 64})
    method = method_of(online(large), views={"crop_area": [0.2, 0.6], "flip": 0.5})
    pairs = load_pairs(*toy_data)
    order = SampleOrder(len(pairs), 16, 0)
    tokenize = build_tokenizer(method.model_config)
    shown = StepDataset(pairs, order, ViewPlan(method.needs().views, tokenize, 32, seed=3))[0]
    alone = StepDataset(pairs, order, ViewPlan({"image": method.images.views}, tokenize, 64, seed=3))[0]
    small = StepDataset(pairs, order, ViewPlan({"image": method.images.views}, tokenize, 32, seed=3))[0]
    assert shown["teacher_image_64"].shape == (16, 3, 64, 64)
    assert torch.equal(shown["teacher_image_64"], alone["image"])
    assert torch.equal(shown["image"], small["image"])
    told = method.enrich(shown)[TEACHER_IMAGE]
    with torch.no_grad():
        wanted = large.model.encode_image(method.normalize(alone["image"]), normalize=True)
    torch.testing.assert_close(told, wanted, atol=1e-6, rtol=1e-5)


def test_the_teacher_sees_the_whole_view_where_the_student_is_masked(method_of, big):
    masked, plain = (
        method_of(online(big), towers=towers(vision={"patch_size": 8}), masking=masking)
        for masking in ({"kind": "random", "keep": 0.5}, {"kind": "none"})
    )
    batch = global_batch(0)
    seen = [method.enrich(batch) for method in (masked, plain)]
    assert all(torch.equal(seen[0][name], seen[1][name]) for name in TEACHER_FEATURES)
    students = [method.encode(each)["image_features"] for method, each in zip((masked, plain), seen, strict=True)]
    assert (students[0] - students[1]).abs().max() > 1e-3


def test_the_teacher_sees_the_colours_that_the_student_sees_in_training_only(method_of, big):
    colour = {"jitter": [0.4, 0.4, 0.4, 0.1], "jitter_probability": 1.0}
    method = method_of(online(big), views={"crop_area": [0.5, 1.0], "colour": colour})
    batch = global_batch(0)
    changed = change_colours(batch["image"].float() / 255, batch["seed"], 0, method.images.views.colour)
    plain = batch["image"].float() / 255
    for training, pixels in ((True, changed), (False, plain)):
        method.train(training)
        with torch.no_grad():
            wanted = big.model.encode_image((pixels - method.image_mean) / method.image_std, normalize=True)
        torch.testing.assert_close(method.enrich(batch)[TEACHER_IMAGE], wanted, atol=1e-5, rtol=1e-4)
    assert (changed - plain).abs().max() > 0.1


def test_an_ensemble_may_have_any_widths(method_of, big, tmp_path):
    second = export_of(tmp_path / "second", towers(embed_dim=10), seed=2)
    method = method_of(online(big, second, scale=30.0))
    batch = global_batch(0)
    told = method.enrich(batch)
    assert told[TEACHER_IMAGE].shape == told[TEACHER_TEXT].shape == (16, 34)
    features = features_of(method, batch)
    sides = []
    with torch.no_grad():
        for model in (big.model, second.model):
            images = model.encode_image(method.normalize(batch["image"]), normalize=True)
            sides.append(TeacherSide(images, model.encode_text(batch["text"], normalize=True), 30.0))
    wanted = affinity_loss(features["image_features"], features["text_features"], 50.0, sides)
    output = method.losses(features, 0)
    torch.testing.assert_close(output.losses["affinity_loss"], wanted.loss, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.logs["teacher_entropy"], wanted.entropy, atol=1e-5, rtol=1e-5)


def test_logits_are_formed_in_float32_under_autocast(method_of, stepper_of, big):
    method = method_of(online(big), {"affinity_share": 0.5})
    batch = global_batch(0)
    with torch.autocast("cpu", torch.bfloat16):
        features = features_of(method, batch)
        inside = method.losses(features, 0)
    outside = method.losses(features, 0)
    for name, _loss in outside.losses.items():
        assert inside.losses[name].dtype == torch.float32
    assert inside.losses["affinity_loss"].item() == outside.losses["affinity_loss"].item()
    stepper = stepper_of(online(big), precision="bf16")
    assert all(math.isfinite(value) for values in steps_of(stepper, 2) for value in values.values())


def test_two_passes_give_the_gradients_of_one(method_of, big):
    method = method_of(online(big), {"affinity_share": 0.6})
    batch = method.enrich(global_batch(0))
    output = method(batch, 0)
    total_loss(output).backward()
    wanted = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
    method.zero_grad()
    second = two_pass_forward(method, batch, 0, 5, lambda: torch.autocast("cpu", enabled=False))
    second.backward()
    assert second.output.losses.keys() == output.losses.keys()
    found = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    assert found.keys() == wanted.keys() and found
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def test_in_parts_the_teacher_is_asked_for_all_of_them(stepper_of, big):
    values = [steps_of(stepper_of(online(big), micro_batch), 2) for micro_batch in (0, 5)]
    for whole, parts in zip(*values, strict=True):
        assert parts == pytest.approx(whole, rel=1e-4, abs=1e-5)


def test_held_out_pairs_tell_how_far_the_student_is_from_its_teacher(method_of, big):
    method = method_of(online(big))
    batch = global_batch(0)
    scores = holdout_scores(
        method, [{n: v[:10] for n, v in batch.items()}, {n: v[10:] for n, v in batch.items()}], HERE.device
    )
    with torch.no_grad():
        method.eval()
        features = features_of(method, batch)
        wanted = method.losses(features, 0).logs["teacher_divergence"]
    assert scores["holdout/teacher_divergence"] == pytest.approx(wanted.item(), abs=1e-4)


def test_a_step_costs_the_teachers_forward_too(method_of, big):
    batch = global_batch(0)
    teacher = online(big)
    method = method_of(teacher)
    with_teacher = FlopsProbe(method).count(batch)
    told = {name: value for name, value in method.enrich(batch).items()}
    cached = method_of(type(teacher)(teacher.widths, teacher.logit_scales))
    without = FlopsProbe(cached).count(told)
    assert with_teacher > 1.3 * without > 0
    # counting has left the teacher's weights where they were
    assert {p.device.type for p in big.model.parameters()} == {"cpu"}
    assert torch.isfinite(method.enrich(batch)[TEACHER_TEXT]).all()


def test_a_teacher_that_reads_other_token_ids_is_refused(method_of, tmp_path):
    longer = export_of(tmp_path / "longer", towers(text={"context_length": 20}))
    with pytest.raises(ConfigError, match=r"other token ids than the student.*16.*20.*give the teacher a cache"):
        method_of(online(longer))
