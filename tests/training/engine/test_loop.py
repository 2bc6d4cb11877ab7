import itertools
import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from assets.config import load_machine
from assets.progress import Stage
from training.config import load_recipe
from training.engine.distributed import World
from training.engine.loop import RESUMABLE, Fit, Stopped, Trainer
from training.engine.metrics import read_rows
from training.models.build import build_method

CPU = torch.device("cpu")
HOLDOUT = {"pairs": 16, "every": 2, "export": "best"}


def trainer_of(file, work, batch, profile=None) -> Trainer:
    recipe = load_recipe(file, "clip")
    fit = Fit(recipe, load_machine(file), 0, work, profile=profile)
    return Trainer(build_method(recipe, 0)[0], fit, World(0, 1, CPU), [batch] if recipe.holdout else [])


def run(trainer, batch):
    with Stage("pretrain@test") as stage:
        return trainer.run(lambda first: itertools.repeat(batch), stage)


def test_the_best_weights_by_held_out_loss_are_exported(params, colour_batch, tmp_path):
    # the more it learns of the pairs, the worse it takes their images with each other's texts
    swapped = {**colour_batch, "text": colour_batch["text"].roll(1, dims=0)}
    trainer = trainer_of(params(**{"recipes.clip.holdout": HOLDOUT}), tmp_path, swapped)
    fitted = run(trainer, colour_batch)
    rows = [row for row in read_rows(tmp_path / "curves/rows.jsonl") if row["step"] % 2 == 1]
    least = min(rows, key=lambda row: row["holdout/loss"])
    assert fitted.best["step"] == least["step"] + 1 < 12
    assert fitted.best["holdout/loss"] == least["holdout/loss"] < fitted.holdout["holdout/loss"]
    best = load_file(tmp_path / "checkpoints/best/method.safetensors")
    exported = trainer.exported_tensors()
    assert all(torch.equal(value, best[f"model.{name}"]) for name, value in exported.items())


def test_a_run_killed_between_its_last_step_and_its_export_only_exports(params, colour_batch, tmp_path):
    file = params(**{"recipes.clip.holdout": HOLDOUT})
    first = trainer_of(file, tmp_path, colour_batch)
    fitted = run(first, colour_batch)
    assert fitted.best["step"] == 12  # so the last step has been saved
    again = trainer_of(file, tmp_path, colour_batch)
    with Stage("pretrain@test") as stage:
        repeated = again.run(lambda start: iter(()), stage)
    assert (repeated.best, repeated.holdout, repeated.flops) == (fitted.best, fitted.holdout, fitted.flops)
    exported = again.exported_tensors()
    assert all(torch.equal(value, exported[name]) for name, value in first.exported_tensors().items())


def test_the_average_is_exported_where_the_recipe_asks_for_it(params, colour_batch, tmp_path):
    trainer = trainer_of(params(**{"recipes.clip.optim.ema_decay": 0.9}), tmp_path, colour_batch)
    run(trainer, colour_batch)
    exported, present = trainer.exported_tensors(), trainer.method.model.state_dict()
    assert all(torch.equal(exported[name], value) for name, value in trainer.stepper.average.tensors.items())
    assert not torch.equal(exported["visual.proj"], present["visual.proj"])


def test_curves_tell_losses_held_out_scores_and_where_the_time_went(params, colour_batch, tmp_path):
    trainer = trainer_of(params(**{"recipes.clip.holdout": {"pairs": 16, "every": 5}}), tmp_path, colour_batch)
    fitted = run(trainer, colour_batch)
    rows = read_rows(tmp_path / "curves/rows.jsonl")
    assert [row["step"] for row in rows if row["step"] in (4, 9, 11)] == [4, 9, 11]
    wanted = {"train/loss", "train/contrastive_loss", "train/grad_norm", "train/logit_scale", "train/lr"}
    wanted |= {"perf/samples_per_second", "perf/data_wait_share", "perf/mfu", "perf/memory_gib", "perf/eta_seconds"}
    assert wanted | {"holdout/loss", "holdout/image_to_text_r1"} <= rows[-1].keys()
    shares = [value for name, value in rows[-1].items() if name.endswith("_share")]
    assert 0.3 < sum(shares) <= 1
    assert fitted.seconds["train_seconds"] >= sum(v for k, v in fitted.seconds.items() if k != "train_seconds") > 0
    live = json.loads((tmp_path / "curves/live/metrics.json").read_text())
    assert live["train"]["loss"] == rows[-1]["train/loss"]
    assert live["step"] == 11


def test_a_signal_saves_and_the_next_attempt_ends_as_if_nothing_had_happened(params, colour_batch, tmp_path):
    file = params(**{"recipes.clip.checkpoint_every": 100, "recipes.clip.holdout": {"pairs": 16, "every": 4}})
    whole = trainer_of(file, tmp_path / "whole", colour_batch)
    wanted = run(whole, colour_batch)

    def interrupted(first):
        for step in itertools.count(first):
            if step == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            yield colour_batch

    trainer = trainer_of(file, tmp_path / "cut", colour_batch)
    with Stage("pretrain@test") as stage, pytest.raises(Stopped) as stopped:
        trainer.run(interrupted, stage)
    assert stopped.value.code == RESUMABLE
    again = trainer_of(file, tmp_path / "cut", colour_batch)
    fitted = run(again, colour_batch)
    assert (fitted.holdout, fitted.best) == (wanted.holdout, wanted.best)
    exported = again.exported_tensors()
    assert all(torch.equal(value, exported[name]) for name, value in whole.exported_tensors().items())
    rows = [read_rows(tmp_path / who / "curves/rows.jsonl") for who in ("whole", "cut")]
    assert [row["train/loss"] for row in rows[0]] == [row["train/loss"] for row in rows[1]]


@pytest.mark.slow
def test_a_trace_of_a_few_steps_can_be_had(params, colour_batch, tmp_path):
    run(trainer_of(params(), tmp_path, colour_batch, tmp_path / "trace.json"), colour_batch)
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert any("aten::" in event.get("name", "") for event in events)
