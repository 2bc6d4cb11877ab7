"""A student under gates, its cut in the middle of a run, and what goes on afterwards."""

import copy
import itertools
import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from assets.config import MachineConfig
from assets.errors import ConfigError
from assets.progress import Stage
from assets.section import parse
from tests.training.conftest import PARAMS
from tests.training.distillation import AUTO, BIG, export_of, online, towers
from tests.training.engine.rank_cases import global_batch
from training.config import RecipeConfig
from training.engine.clock import TrainClock
from training.engine.distributed import World
from training.engine.flops import FlopsProbe
from training.engine.loop import Fit, Stopped, Trainer
from training.engine.metrics import read_rows
from training.engine.optim import clip_gradients
from training.engine.step import Stepper
from training.losses.sparsity import kept_parameters, prunable_parameters
from training.methods.distill_auto import whole_sizes
from training.models.build import build_method, export_model
from training.models.compact import describe_cut
from training.models.dense_export import DenseExport, load_dense

HERE = World(0, 1, torch.device("cpu"))
MACHINE = parse(MachineConfig, PARAMS["machine"], "machine")
CUT, STEPS = AUTO["compact_at"], 16
RESNET = {"kind": "resnet", "layers": [1, 1, 1, 1], "width": 8}
START = {"towers": {"kind": "start"}, "start": {"source": "teacher"}}


@pytest.fixture(scope="module")
def big(tmp_path_factory) -> DenseExport:
    """The teacher, and what students start as."""
    return export_of(tmp_path_factory.mktemp("big") / "big")


def recipe_of(method: dict | None = None, **changes) -> RecipeConfig:
    budget = {"samples_seen": STEPS * 16, "batch_size": 16}
    whole = copy.deepcopy(PARAMS["recipes"]["clip"]) | START | {"budget": budget, "checkpoint_every": 100} | changes
    return parse(RecipeConfig, whole | {"method": AUTO | (method or {})}, "recipe")


def method_of(big, method: dict | None = None, source=None, **changes):
    return build_method(recipe_of(method, **changes), 0, start=source or big, teacher=online(big))[0]


def trainer_of(big, work, machine=MACHINE, **changes) -> Trainer:
    recipe = recipe_of(**changes)
    method = build_method(recipe, 0, start=big, teacher=online(big))[0]
    return Trainer(method, Fit(recipe, machine, 0, work), HERE, [global_batch(99)] if recipe.holdout else [])


def run(trainer: Trainer, stop_at: int | None = None):
    """Train; send a signal while the batch of a step is read."""

    def source(first):
        for step in itertools.count(first):
            if step == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            yield global_batch(step)

    with Stage("pretrain@test", quiet=True) as stage:
        return trainer.run(source, stage)


def sparsity_of(config: dict) -> float:
    """Share of the towers' prunable parameters that a cut model lacks."""
    sizes = whole_sizes(config)
    kept = [cut.after for cut in describe_cut(config).values()]
    left = sum(kept_parameters(*tower) for tower in zip(sizes, kept, strict=True))
    return 1 - left / sum(map(prunable_parameters, sizes))


@pytest.fixture(scope="module")
def whole_run(big, tmp_path_factory):
    """A run without a stop: the trainer, how it ended, and its folder."""
    work = tmp_path_factory.mktemp("whole")
    trainer = trainer_of(big, work, holdout={"pairs": 16, "every": 5, "export": "best"})
    return trainer, run(trainer), work


def test_the_run_ends_with_a_smaller_model_whose_export_computes_the_same(whole_run, big, tmp_path):
    trainer, _, _ = whole_run
    tensors, method = trainer.exported_tensors(), trainer.method
    assert sum(map(torch.numel, tensors.values())) < sum(p.numel() for p in big.model.parameters())
    export_model(tensors, method.model_config, tmp_path)
    loaded = load_dense(tmp_path)
    batch = global_batch(3)
    image = method.normalize(batch["image"])
    method.eval()
    with torch.no_grad():
        for name, given in (("encode_image", image), ("encode_text", batch["text"])):
            wanted = getattr(method.model, name)(given)
            torch.testing.assert_close(getattr(loaded.model, name)(given), wanted, atol=1e-6, rtol=1e-5)
    method.train()
    assert loaded.config["vision_cfg"] == big.config["vision_cfg"]


def test_about_as_much_is_cut_as_asked_for(whole_run):
    trainer, _, work = whole_run
    assert sparsity_of(trainer.method.model_config) == pytest.approx(AUTO["sparsity"], abs=0.06)
    rows = {row["step"]: row for row in read_rows(work / "curves/rows.jsonl")}
    assert rows[0]["train/sparsity"] < 0.01
    assert rows[CUT - 1]["train/sparsity_target"] == pytest.approx(AUTO["sparsity"])
    assert rows[CUT - 1]["train/sparsity"] > 0.5 * AUTO["sparsity"]
    assert "train/sparsity_loss" in rows[CUT - 1] and "train/sparsity_loss" not in rows[CUT]
    assert {row["train/logit_scale"] for row in rows.values()} == {50.0}


def test_the_best_model_is_looked_for_among_those_of_the_last_shape(whole_run):
    _trainer, fitted, work = whole_run
    assert fitted.best["step"] > CUT
    best = load_file(work / "checkpoints/best/method.safetensors")
    assert not [name for name in best if "gates" in name or "multipliers" in name]


def test_operations_of_both_shapes_are_counted_at_their_own_cost(whole_run, big):
    trainer, fitted, _ = whole_run
    before = FlopsProbe(method_of(big)).count(global_batch(0), STEPS // 2)
    after = FlopsProbe(trainer.method).count(global_batch(CUT), STEPS // 2)
    assert fitted.earlier_steps == CUT
    assert fitted.earlier_flops == pytest.approx(before * CUT * 16)
    assert fitted.flops == pytest.approx(after)
    assert after < before


@pytest.mark.parametrize("saved", [CUT - 1, CUT, CUT + 1])
def test_a_stop_around_the_cut_changes_nothing(whole_run, big, tmp_path, saved):
    whole, wanted, work = whole_run
    changes = {"holdout": {"pairs": 16, "every": 5, "export": "best"}}
    with pytest.raises(Stopped):
        run(trainer_of(big, tmp_path, **changes), stop_at=saved - 1)
    again = trainer_of(big, tmp_path, **changes)
    assert [path.name for path in again.checkpoints.complete()][-1] == f"step-{saved:08d}"
    fitted = run(again)
    tensors = again.exported_tensors()
    reference = whole.exported_tensors()
    assert tensors.keys() == reference.keys()
    assert all(torch.equal(value, tensors[name]) for name, value in reference.items())
    assert again.method.model_config == whole.method.model_config
    assert (fitted.holdout, fitted.best) == (wanted.holdout, wanted.best)
    assert (fitted.flops, fitted.earlier_flops) == (wanted.flops, wanted.earlier_flops)
    curves = [read_rows(folder / "curves/rows.jsonl") for folder in (work, tmp_path)]
    shown = [
        [
            {k: v for k, v in row.items() if not k.startswith("perf/")}
            for row in sorted(rows, key=lambda row: row["step"])
        ]
        for rows in curves
    ]
    assert shown[0] == shown[1]


def test_compiled_towers_are_compiled_anew_after_the_cut(whole_run, big, tmp_path, monkeypatch):
    compiled = []

    def compile_(encode):  # what it gives belongs to the method whose towers it was made of
        compiled.append(encode)
        return lambda batch: encode(batch)

    monkeypatch.setattr(torch, "compile", compile_)
    machine = MACHINE.model_copy(update={"compile": "always"})
    trainer = trainer_of(big, tmp_path, machine=machine)
    fitted = run(trainer)
    assert len(compiled) == 2
    whole, wanted, _ = whole_run
    assert (fitted.flops, fitted.earlier_flops) == (wanted.flops, wanted.earlier_flops)
    assert trainer.method.model_config == whole.method.model_config


def test_cutting_changes_no_feature(big):
    recipe = recipe_of()
    stepper = Stepper(method_of(big), recipe, MACHINE, HERE, 0)
    for step in range(CUT):
        stepper.step(global_batch(step), step, TrainClock({}, HERE.device))
    method, batch = stepper.method.eval(), global_batch(50)
    assert not method.reshape_is_due(CUT - 1) and method.reshape_is_due(CUT) and method.reshape_is_due(CUT + 3)
    assert method.structure() == {}
    with torch.no_grad():
        gated = method.held_out_features(batch)
        told = method.reshape()
        cut = method.held_out_features(batch)
    for before, after in zip(gated, cut, strict=True):
        scale = before.abs().max().item()
        torch.testing.assert_close(after, before, atol=1e-5 * max(scale, 1), rtol=1e-4)
    assert "width" in told and not method.reshape_is_due(CUT)
    assert method.structure().keys() == {"compact_cfg"}
    assert not [name for name in method.state_dict() if not name.startswith("model.")]


def test_gates_stay_inside_their_bounds_and_multipliers_only_climb(big):
    stepper = Stepper(method_of(big), recipe_of(), MACHINE, HERE, 0)
    method = stepper.method
    multipliers = [method.multipliers.values.detach().clone()]
    for step in range(CUT):
        values = stepper.step(global_batch(step), step, TrainClock({}, HERE.device)).values
        multipliers.append(method.multipliers.values.detach().clone())
        for gates in (method.image_gates, method.text_gates):
            assert max(p.abs().max().item() for p in gates.parameters()) <= 4.6052
        assert values["loss"] == pytest.approx(values["affinity_loss"] + values["sparsity_loss"], rel=1e-5)
    assert all((later >= earlier).all() for earlier, later in itertools.pairwise(multipliers))
    assert (multipliers[-1] > multipliers[0]).all()


def test_gates_and_multipliers_have_their_own_rates_and_are_not_clipped(big):
    stepper = Stepper(method_of(big, {"multipliers_lr": 0.3}), recipe_of(), MACHINE, HERE, 0)
    stepper.step(global_batch(0), 0, TrainClock({}, HERE.device))
    groups = {group["group"]: group for group in stepper.optimizer.param_groups}
    assert groups.keys() == {"", "gates", "multipliers"}
    assert (groups["gates"]["lr"], groups["multipliers"]["lr"]) == (AUTO["gates_lr"], 0.3)
    assert groups[""]["lr"] == pytest.approx(5e-4)  # the first of two steps of warm-up
    assert groups["multipliers"]["maximize"] and not groups["gates"]["maximize"]
    for name in ("gates", "multipliers"):
        assert groups[name]["weight_decay"] == 0 and tuple(groups[name]["betas"]) == (0.9, 0.999)
    assert len(groups["gates"]["names"]) == 6 and groups["multipliers"]["names"] == ["multipliers.values"]
    for group in stepper.optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    weights = sum(p.numel() for g in stepper.optimizer.param_groups if g["clip"] for p in g["params"])
    assert clip_gradients(stepper.method, stepper.optimizer, 1.0).item() == pytest.approx(weights**0.5, rel=1e-4)
    assert all((p.grad == 1).all() for name in ("gates", "multipliers") for p in groups[name]["params"])
    assert all((p.grad < 0.1).all() for p in groups[""]["params"])


def test_a_resumed_method_takes_on_the_shape_of_the_cut_one_and_what_is_frozen(big):
    cut, again = (method_of(big, freeze_patch_embedding=True) for _ in range(2))
    cut.reshape()
    again.restore_structure(json.loads(json.dumps(cut.structure())))
    shapes = [{name: (p.shape, p.requires_grad) for name, p in method.named_parameters()} for method in (cut, again)]
    assert shapes[0] == shapes[1]
    frozen = {name for name, (_, trained) in shapes[0].items() if not trained}
    assert frozen == {"model.logit_scale", "model.visual.conv1.weight"}
    assert again.model_config == cut.model_config


def test_each_step_draws_other_gates_and_parts_of_a_batch_see_the_same(big):
    method = method_of(big)
    with torch.no_grad():
        for log_alpha in (*method.image_gates.parameters(), *method.text_gates.parameters()):
            log_alpha.fill_(0.5)
    batch = method.enrich(global_batch(0))
    features = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        method.before_step(0, STEPS)
        whole = method.encode(batch)["image_features"]
        parts = [method.encode({n: v[rows] for n, v in batch.items()}) for rows in (slice(0, 5), slice(5, 16))]
        torch.testing.assert_close(torch.cat([part["image_features"] for part in parts]), whole, atol=1e-5, rtol=1e-4)
        features.append(whole)
    assert torch.equal(features[0], features[1])
    assert (features[0] - features[2]).abs().max() > 1e-2


def test_a_later_stage_starts_as_the_cut_model_and_goes_on_from_its_sparsity(whole_run, big, tmp_path):
    trainer, _, _ = whole_run
    export_model(trainer.exported_tensors(), trainer.method.model_config, tmp_path)
    first = load_dense(tmp_path)
    gone = sparsity_of(first.config)
    method = method_of(big, {"sparsity": 0.75}, source=first, start={"source": "run"})
    assert method.first_target == pytest.approx(gone)
    stepper = Stepper(method, recipe_of(), MACHINE, HERE, 0)
    values = [stepper.step(global_batch(step), step, TrainClock({}, HERE.device)).values for step in range(CUT)]
    assert values[0]["sparsity_target"] == pytest.approx(gone)
    method.reshape()
    assert gone + 0.05 < sparsity_of(method.model_config)
    assert method.model_config["vision_cfg"] == big.config["vision_cfg"]
    with pytest.raises(ConfigError, match=r"sparsity.*has lost as much already.*got 0\.1"):
        method_of(big, {"sparsity": 0.1}, source=first, start={"source": "run"})


@pytest.mark.parametrize(
    ("method", "changes", "fault"),
    [
        ({"gates_lr": 0.02}, {}, r"in 11 steps at gates_lr 0\.02 no gate closes; raise gates_lr to 0\.56"),
        ({"sparsity_warmup_steps": 12}, {}, "sparsity_warmup_steps 12 is above compact_at 11"),
        ({"compact_at": STEPS}, {}, rf"compact_at, got {STEPS}, wanted fewer than the {STEPS} steps"),
        ({}, {"masking": {"kind": "random", "keep": 0.5}}, 'leave "masking" out'),
        ({"sparsity": 1.0}, {}, "sparsity"),
        ({}, {"towers": towers() | {"vision": RESNET}, "start": None}, "gates"),
    ],
)
def test_what_cannot_work_is_refused(big, method, changes, fault):
    with pytest.raises(ConfigError, match=fault):
        method_of(big, method, **changes)


def test_towers_of_random_weights_can_be_cut_too(big):
    method = method_of(big, towers=BIG, start=None)
    assert method.began is None and method.first_target == 0
