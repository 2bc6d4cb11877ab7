import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from assets.config import load_machine
from assets.errors import ConfigError, DataError
from assets.manifest import verify_manifest, version_of
from training.config import BudgetConfig, check_batch, load_recipe
from training.data.loader import Batch
from training.engine.checkpoint import whole
from training.engine.clock import TrainClock
from training.engine.distributed import World, share_batch_norm
from training.engine.loop import RESUMABLE
from training.engine.step import Stepper
from training.machine_facts import read_machine
from training.models.build import build_method, export_model
from training.pretrain import Paths, pretrain


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


CPU = torch.device("cpu")


def stepper_of(file) -> Stepper:
    recipe = load_recipe(file, "clip")
    return Stepper(build_method(recipe, 0)[0], recipe, load_machine(file), World(0, 1, CPU), 0)


def paths(toy_data, folder):
    return Paths(*toy_data, folder / "model", folder / "log", machine=folder / "machine")


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def command(params, toy_data, folder):
    raw, valid = toy_data
    return [
        *(sys.executable, "-m", "training", "pretrain", "--name", "toy-s0", "--params", str(params)),
        *("--raw", str(raw), "--valid", str(valid), "--out", str(folder / "model"), "--curves", str(folder / "log")),
        *("--machine", str(folder / "machine")),
    ]


def test_a_run_publishes_a_model_that_open_clip_loads_and_a_log(toy_data, params, here):
    pretrain("toy-s0", params(), paths(toy_data, here))
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{here / 'model'}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{here / 'model'}")
    assert tokenizer(["a red disc"]).shape == (1, 16)
    weights = load_file(here / "model" / "open_clip_model.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items() if name in weights)
    assert verify_manifest(here / "model") == []
    summary = json.loads((here / "log" / "summary.json").read_text())
    assert summary["cost"]["samples_seen"] == 192
    assert summary["cost"]["inference_params"] == sum(p.numel() for p in model.parameters())
    assert summary["cost"]["flops"] > 0
    curve = (here / "log" / "plots" / "metrics" / "train" / "loss.tsv").read_text().splitlines()
    assert len(curve) == 1 + 12
    assert not list((here / "work" / "pretrain" / "toy-s0").iterdir())


def test_the_same_run_twice_gives_the_same_bytes_but_for_what_the_machine_says(toy_data, params, here):
    file = params(**{"recipes.clip.holdout": {"pairs": 8, "every": 6}})
    for attempt in ("one", "two"):
        pretrain("toy-s0", file, paths(toy_data, here / attempt))
    one, two = ({name: contents(here / attempt / name) for name in ("model", "log")} for attempt in ("one", "two"))
    assert one == two
    assert not [name for name in one["log"] if "perf" in name]
    assert json.loads(one["log"]["metrics.json"]).keys() == {"step", "train", "holdout"}


def test_what_depends_on_the_machine_has_a_folder_of_its_own(toy_data, params, here):
    pytest.importorskip("tensorboard")
    pretrain("toy-s0", params(**{"machine.tensorboard": True}), paths(toy_data, here))
    facts = read_machine(here / "machine")
    assert facts["model_version"] == version_of(here / "model")
    assert facts["cost"]["total_seconds"] > facts["cost"]["train_seconds"] > 0 < facts["cost"]["memory_gib"]
    assert (facts["device"], facts["processes"], facts["git"]) == ("cpu", 1, "unknown")
    assert len((here / "machine/perf/samples_per_second.tsv").read_text().splitlines()) == 1 + 12
    assert list((here / "machine/tensorboard").rglob("events.*"))
    assert contents(here / "log").keys() >= {"summary.json", "metrics.json", "plots/metrics/train/loss.tsv"}
    assert not [name for name in contents(here / "log") if "perf" in name or "events" in name]


def test_facts_of_a_machine_may_be_missing_but_not_damaged(tmp_path):
    assert read_machine(tmp_path) is None
    for text in ("{", "[]", '{"cost": {}}'):
        (tmp_path / "machine.json").write_text(text)
        with pytest.raises(DataError, match=r"machine\.json .*delete it"):
            read_machine(tmp_path)


def test_training_learns_the_toy_captions(toy_data, params, here):
    pretrain(
        "toy-s0", params(**{"recipes.clip.budget": {"samples_seen": 1600, "batch_size": 16}}), paths(toy_data, here)
    )
    curve = np.loadtxt(here / "log/plots/metrics/train/loss.tsv", skiprows=1)[:, 1]
    assert curve[-10:].mean() < curve[:10].mean() - 0.5


def _wait_for(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes(toy_data, params, here):
    slow = {"recipes.clip.budget": {"samples_seen": 6400, "batch_size": 16}}
    file = params(**slow)
    pretrain("toy-s0", file, paths(toy_data, here / "whole"))
    run = command(file, toy_data, here / "killed")
    child = subprocess.Popen(run, cwd=here)
    _wait_for(lambda: list((here / "work/pretrain/toy-s0").glob("*/checkpoints/step-0000003*")))
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (here / "killed" / "model").exists()
    again = subprocess.run(run, cwd=here, capture_output=True, text=True, check=True)
    assert "goes on from step" in again.stderr
    for name in ("open_clip_model.safetensors", "manifest.json"):
        assert (here / "killed/model" / name).read_bytes() == (here / "whole/model" / name).read_bytes()
    losses = [(here / who / "log/plots/metrics/train/loss.tsv").read_text() for who in ("whole", "killed")]
    assert losses[0] == losses[1]
    assert contents(here / "killed/log") == contents(here / "whole/log")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_saves_and_says_that_it_can_go_on(toy_data, params, here, number):
    file = params(**{"recipes.clip.budget": {"samples_seen": 64000, "batch_size": 16}, "machine.workers": 1})
    child = subprocess.Popen(
        command(file, toy_data, here), cwd=here, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    _wait_for(lambda: list((here / "work/pretrain/toy-s0").glob("*/checkpoints/step-0000000*")))
    os.killpg(child.pid, number)
    _, log = child.communicate(timeout=60)
    assert child.returncode == RESUMABLE
    assert "run it again to go on" in log


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_same_global_batch(toy_data, params, here):
    file = params()
    pretrain("toy-s0", file, paths(toy_data, here / "one"))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29617"]
    subprocess.run([*torchrun, *command(file, toy_data, here / "two")[1:]], cwd=here, check=True, timeout=300)
    one, two = (load_file(here / who / "model/open_clip_model.safetensors") for who in ("one", "two"))
    for name, value in one.items():
        assert torch.allclose(value, two[name], atol=1e-5, rtol=1e-4), name
    curves = [np.loadtxt(here / who / "log/plots/metrics/train/loss.tsv", skiprows=1)[:, 1] for who in ("one", "two")]
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)


def test_a_non_finite_loss_stops_and_names_step_method_and_term(params, colour_batch: Batch, here):
    stepper = stepper_of(params())
    with torch.no_grad():
        stepper.method.model.visual.proj.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"step 5 of method clip: .*contrastive_loss"):
        stepper.step(colour_batch, 5, TrainClock({}, CPU))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_three_steps_lower_the_loss_of_every_method(kind, params, colour_batch: Batch, here):
    stepper, clock = stepper_of(params(**{"recipes.clip.method": {"kind": kind}})), TrainClock({}, CPU)
    losses = [stepper.step(colour_batch, step, clock).values["loss"] for step in range(4)]
    assert losses[3] < losses[0]


@pytest.mark.slow
def test_compiled_towers_take_the_same_steps(params, colour_batch: Batch):
    masked = {"recipes.clip.masking": {"kind": "random", "keep": 0.5}}
    losses = []
    for compile_ in ("never", "always"):
        stepper, clock = stepper_of(params(**masked, **{"machine.compile": compile_})), TrainClock({}, CPU)
        losses.append([stepper.step(colour_batch, step, clock).values["loss"] for step in range(3)])
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)


def test_a_siglip_export_keeps_its_bias(toy_data, params, here):
    pretrain("toy-s0", params(**{"recipes.clip.method": {"kind": "siglip"}}), paths(toy_data, here))
    model = open_clip.create_model(f"local-dir:{here / 'model'}")
    assert -11 < model.logit_bias.item() < -9


def test_a_resnet_tower_trains_and_exports(toy_data, params, here):
    vision = {"kind": "resnet", "layers": [1, 1, 1, 1], "width": 8}
    pretrain("toy-s0", params(**{"recipes.clip.towers.vision": vision}), paths(toy_data, here))
    open_clip.create_model(f"local-dir:{here / 'model'}")


def test_batch_norm_over_several_cpu_processes_is_refused():
    with pytest.raises(ConfigError, match=r"batch norm.*2 CPU processes.*kind: vit"):
        share_batch_norm(torch.nn.Sequential(torch.nn.BatchNorm2d(3)), World(0, 2, torch.device("cpu")))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"recipes.clip.optim": {"lrr": 1}}, r"recipes.clip.optim: unknown key 'lrr' \(did you mean 'lr'\?\)"),
        ({"recipes.clip.method": {"kind": "clop"}}, "unknown method 'clop' .*did you mean 'clip'"),
        ({"recipes.clip.method": {"kind": "clip", "temperature": 1}}, "unknown key 'temperature'"),
        ({"runs.toy-s0.recipe": "clib"}, "unknown recipe 'clib' .*did you mean 'clip'"),
        ({"recipes.clip.precision": "fp8"}, "recipes.clip.precision: .*fp32"),
        ({"recipes.clip.budget": {"samples_seen": "many", "batch_size": 16}}, "budget.samples_seen: .*integer"),
        ({"recipes.clip.budget": {"samples_seen": 1000, "batch_size": 512}}, "fewer pairs than one batch, got 63"),
        ({"recipes.clip.towers": {"kind": "open_clip", "name": "ViT-B-61"}}, "did you mean 'ViT-B-16"),
    ],
)
def test_wrong_params_are_refused_before_any_work(toy_data, params, here, changes, fault):
    with pytest.raises(ConfigError, match=fault):
        pretrain("toy-s0", params(**changes), paths(toy_data, here))
    assert not (here / "work").exists()


def test_an_unfinished_input_is_refused(toy_data, params, here):
    (here / "empty").mkdir()
    with pytest.raises(DataError, match="has no manifest"):
        pretrain("toy-s0", params(), Paths(here / "empty", toy_data[1], here / "model", here / "log"))


@pytest.mark.slow
def test_the_stage_starts_its_own_processes(toy_data, params, here):
    file = params(**{"machine.processes": 2})
    done = subprocess.run(command(file, toy_data, here), cwd=here, capture_output=True, text=True, check=True)
    assert done.stderr.count("pretrain@toy-s0 started") == 1  # the second process leaves the telling to the first
    assert read_machine(here / "machine")["processes"] == 2


def test_an_export_embeds_as_the_trained_model_did(params, colour_batch: Batch, here):
    stepper, clock = stepper_of(params()), TrainClock({}, CPU)
    for step in range(2):
        stepper.step(colour_batch, step, clock)
    method = stepper.method.eval()
    _, config = build_method(load_recipe(params(), "clip"), 0)
    export_model({name: whole(value) for name, value in method.model.state_dict().items()}, config, here)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{here}")
    picture = Image.fromarray(colour_batch["image"][0].permute(1, 2, 0).numpy())
    with torch.no_grad():
        ours = method.encode(colour_batch)
        theirs = model.eval().encode_text(colour_batch["text"], normalize=True)
        assert torch.equal(theirs, ours["text_features"])
        features = model.encode_image(preprocess(picture)[None], normalize=True)
        assert torch.allclose(features, ours["image_features"][:1], atol=1e-6)


@pytest.mark.parametrize(
    ("samples", "batch", "processes", "fault"),
    [
        (100, 30, 4, "batch_size does not divide by the processes, got 30, wanted a multiple of 4"),
        (20, 32, 1, "fewer pairs than one batch, got 20, wanted at least 32"),
    ],
)
def test_a_batch_that_cannot_be_filled_or_split_is_refused(samples, batch, processes, fault):
    with pytest.raises(ConfigError, match=fault):
        check_batch(BudgetConfig(samples_seen=1000, batch_size=batch), samples, processes)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"recipes.clip.holdout": {"pairs": 63, "every": 1}}, "holdout.pairs leaves nothing to train on, got 63"),
        (
            {
                "recipes.clip.towers.vision": {"kind": "resnet", "layers": [1, 1, 1, 1], "width": 8},
                "recipes.clip.masking": {"kind": "random"},
            },
            "cannot drop tokens, got 'ModifiedResNet'",
        ),
        (
            {
                "recipes.clip.towers.vision": {"kind": "resnet", "layers": [1, 1, 1, 1], "width": 8},
                "machine.micro_batch": 4,
            },
            "micro_batch is for towers without batch norm",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_reason(toy_data, params, here, changes, fault):
    with pytest.raises(ConfigError, match=fault):
        pretrain("toy-s0", params(**changes), paths(toy_data, here))
    assert not (here / "work").exists()
