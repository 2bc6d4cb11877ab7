"""Stage ``pretrain``: one run of params.yaml from validated pairs to an exported model."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch

from assets.atomic import atomic_folder, write_json, write_text
from assets.code_stamp import code_digest
from assets.config import MachineConfig, load_machine
from assets.manifest import read_manifest, value_digest, version_of, write_manifest
from assets.progress import Stage
from training.config import RecipeConfig, RunConfig, check_batch, load_recipe, load_run
from training.data.loader import StepDataset
from training.data.order import SampleOrder
from training.data.pairs import load_pairs
from training.engine.clock import TrainClock
from training.engine.distributed import World, world
from training.engine.flops import flops_per_sample
from training.engine.loop import Fit, Trainer
from training.engine.metrics import publish_curves, read_rows
from training.engine.optim import count_parameters
from training.methods import METHODS
from training.methods.base import Method
from training.model_card import model_card
from training.models.build import build_method, build_tokenizer, export_model, image_size


@dataclass(frozen=True, slots=True)
class Paths:
    """Folders of the stage.

    Attributes:
        raw: Shards and index, from ``ingest``.
        valid: Accepted keys, from ``validate``.
        out: The exported model.
        log: Curves, cost and environment of the run.
    """

    raw: Path
    valid: Path
    out: Path
    log: Path


@dataclass(frozen=True, slots=True)
class Plan:
    """One run, resolved.

    Attributes:
        name: Its key in ``runs``.
        run: Recipe, data set, policy, seed.
        recipe: How to train.
        code: Digest of the code in use.
        inputs: Versions of the input folders.
    """

    name: str
    run: RunConfig
    recipe: RecipeConfig
    code: str
    inputs: dict[str, str]

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config, JSON-serialisable."""
        return {"run": self.run.model_dump(mode="json"), "recipe": self.recipe.model_dump(mode="json")}

    @property
    def work(self) -> Path:
        """The folder where this very run lives until it is published."""
        digest = value_digest({"config": self.config, "code": self.code, "inputs": self.inputs})
        return Path("work") / "pretrain" / self.name / digest


def pretrain(name: str, params: Path, paths: Paths) -> None:
    """Train, export and publish one run.

    Args:
        name: Key in ``runs``.
        params: The params.yaml to read.
        paths: Input and output folders.

    Raises:
        ConfigError: A wrong value in params.yaml, before any work.
        DataError: An input folder is missing, unfinished, of another kind, or holds too few pairs.
    """
    machine = load_machine(params)
    run = load_run(params, name)
    recipe = load_recipe(params, run.recipe)
    read_manifest(paths.raw, "raw")
    read_manifest(paths.valid, "valid")
    plan = Plan(
        name=name,
        run=run,
        recipe=recipe,
        code=code_digest("training.pretrain", METHODS[recipe.method["kind"]].partition(":")[0]),
        inputs={"raw": version_of(paths.raw), "valid": version_of(paths.valid)},
    )
    with Stage(f"pretrain@{name}") as stage, world(machine) as here:
        _train_and_publish(plan, paths, machine, stage, here)


def _train_and_publish(plan: Plan, paths: Paths, machine: MachineConfig, stage: Stage, here: World) -> None:
    pairs = load_pairs(paths.raw, paths.valid)
    check_batch(plan.recipe.budget, len(pairs), here.size)
    method, config = build_method(plan.recipe, plan.run.seed)
    stage.log.info(
        "%s: %d pairs, %d steps of %d, %.1f M parameters, %d process(es) on %s",
        stage.name,
        len(pairs),
        plan.recipe.budget.steps,
        plan.recipe.budget.batch_size,
        count_parameters(method) / 1e6,
        here.size,
        here.device,
    )
    dataset = StepDataset(
        pairs,
        SampleOrder(len(pairs), plan.recipe.budget.batch_size, plan.run.seed),
        plan.recipe.views,
        build_tokenizer(config),
        image_size(config),
        plan.run.seed,
        here.rank,
        here.size,
    )
    flops = flops_per_sample(method, dataset[0]) if here.is_main else 0.0
    trainer = Trainer(method, Fit(plan.recipe, plan.run.seed, plan.work, machine.workers), here)
    clock = trainer.run(dataset, stage)
    if here.is_main:
        cost = _cost(plan, trainer.method, clock, flops, stage)
        model_version = _publish_model(plan, trainer.method, config, len(pairs), paths)
        _publish_log(plan, cost, model_version, here, machine.tensorboard, paths)
        shutil.rmtree(plan.work)


def _cost(plan: Plan, method: Method, clock: TrainClock, flops: float, stage: Stage) -> dict[str, float]:
    """What the run took; seconds include earlier attempts."""
    samples = plan.recipe.budget.steps * plan.recipe.budget.batch_size
    return {
        "train_seconds": clock.train_seconds,
        "total_seconds": clock.train_seconds + stage.seconds - clock.attempt_seconds,
        "samples_seen": samples,
        "flops": flops * samples,
        "trainable_params": count_parameters(method, trainable=True),
        "inference_params": count_parameters(method.model),
        "samples_per_second": samples / clock.train_seconds,
        "data_wait_share": clock.data_wait_seconds / clock.train_seconds,
    }


def _publish_model(plan: Plan, method: Method, config: dict[str, Any], num_pairs: int, paths: Paths) -> str:
    """Write the export with config, card and manifest; return its version."""
    with atomic_folder(paths.out) as folder:
        export_model(method.model, config, folder)
        write_json(folder / "config.json", plan.config)
        write_text(folder / "README.md", model_card(plan.name, plan.config, plan.inputs, num_pairs))
        counts = {"parameters": count_parameters(method.model), "pairs": num_pairs, "steps": plan.recipe.budget.steps}
        write_manifest(folder, "model", plan.name, plan.config, counts, plan.inputs, plan.code)
    return version_of(paths.out)


def _publish_log(
    plan: Plan, cost: dict[str, float], model_version: str, here: World, tensorboard: bool, paths: Paths
) -> None:
    """Write what is not deterministic: seconds, environment, git commit, and the curves."""
    with atomic_folder(paths.log) as folder:
        publish_curves(read_rows(plan.work / "metrics.jsonl"), folder, tensorboard)
        summary = {
            "name": plan.name,
            **plan.run.model_dump(mode="json"),
            "cost": cost,
            "git": git_commit(),
            "data_version": plan.inputs["valid"],
            "model_version": model_version,
            "device": torch.cuda.get_device_name() if here.device.type == "cuda" else "cpu",
            "processes": here.size,
            "threads": torch.get_num_threads(),
            "packages": {"torch": torch.__version__, "open_clip_torch": open_clip.__version__},
        }
        write_json(folder / "summary.json", summary)


def git_commit() -> str:
    """Return the commit in use, with ``-dirty`` when tracked files differ from it, or ``unknown`` outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
