"""What a finished run leaves: the exported model with its card, the log, and what only this machine can say.

Two clones that train one run at one commit publish the same bytes. What depends on the machine or the moment (seconds,
memory, device, git commit, packages) therefore goes to a folder of its own, which nothing depends on.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor

from assets.atomic import atomic_folder, write_json, write_text
from assets.language.lexicon import Lexicon
from assets.manifest import version_of, write_manifest
from training.config import BudgetConfig
from training.engine.distributed import World
from training.engine.loop import Fitted
from training.engine.metrics import publish_curves, publish_speed
from training.machine_facts import MACHINE
from training.model_card import model_card
from training.models.build import export_model
from training.plan import Plan


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run whose training is over.

    Attributes:
        plan: What was to be trained.
        num_pairs: Training pairs, held-out ones excluded.
        trainable_params: Scalars that got gradients.
        inference_params: Scalars of the exported model.
        fitted: How training went.
        world: The processes.
    """

    plan: Plan
    num_pairs: int
    trainable_params: int
    inference_params: int
    fitted: Fitted
    world: World

    @property
    def exported_holdout(self) -> dict[str, float]:
        """Held-out scores of the weights that are exported; empty without held-out pairs."""
        holdout = self.plan.recipe.holdout
        return self.fitted.best if holdout is not None and holdout.export == "best" else self.fitted.holdout


def publish_model(
    run: FinishedRun,
    tensors: dict[str, Tensor],
    model: tuple[dict[str, Any], Lexicon | None],
    out: Path,
    began: dict[str, Any] | None = None,
) -> str:
    """Write the export with config, card and manifest.

    Args:
        run: What was trained.
        tensors: The model's weights.
        model: Its config, and the words of a lexical one.
        out: The folder to publish.
        began: Per tower, what was taken of another model; None for random weights.

    Returns:
        The export's version.
    """
    with atomic_folder(out) as folder:
        model_config, lexicon = model
        export_model(tensors, model_config, folder, lexicon)
        write_json(folder / "config.json", run.plan.config)
        if began is not None:
            write_json(folder / "began.json", began)
        card = model_card(
            run.plan.name, run.plan.config, run.plan.inputs, run.num_pairs, run.exported_holdout, model_config
        )
        write_text(folder / "README.md", card)
        counts = {"parameters": run.inference_params, "pairs": run.num_pairs, "steps": run.plan.recipe.budget.steps}
        write_manifest(folder, "model", run.plan.name, run.plan.config, counts, run.plan.inputs, run.plan.code)
    return version_of(out)


def publish_log(run: FinishedRun, model_version: str, curves: Path, out: Path) -> None:
    """Write what is the same on every machine: the run, its exact cost, held-out scores, and the curves.

    Args:
        run: What was trained.
        model_version: Version of the export.
        curves: Folder of the metric log.
        out: The folder to publish, with ``summary.json``, ``metrics.json`` and ``plots/metrics/**.tsv``.
    """
    budget = run.plan.recipe.budget
    with atomic_folder(out) as folder:
        publish_curves(curves, folder)
        summary = {
            "name": run.plan.name,
            **run.plan.run.model_dump(mode="json"),
            "cost": {
                "samples_seen": budget.steps * budget.batch_size,
                "pairs": run.num_pairs,
                "flops": _flops(run.fitted, budget) + run.fitted.episode_flops,
                "trainable_params": run.trainable_params,
                "inference_params": run.inference_params,
            },
            "holdout": {"last": run.fitted.holdout, "best": run.fitted.best},
            "data_version": run.plan.inputs["valid"],
            "model_version": model_version,
        }
        write_json(folder / "summary.json", summary)


def publish_machine(run: FinishedRun, model_version: str, idle_seconds: float, curves: Path, out: Path) -> None:
    """Write what depends on the machine and the moment: seconds, memory, device, git commit, and curves of speed.

    Args:
        run: What was trained.
        model_version: Version of the export; it tells to which model the seconds belong.
        idle_seconds: Seconds of the stage outside of training.
        curves: Folder of the metric log.
        out: The folder to publish, with ``machine.json``, ``perf/*.tsv`` and TensorBoard's files.
    """
    device = run.world.device
    with atomic_folder(out) as folder:
        publish_speed(curves, folder)
        facts = {
            "name": run.plan.name,
            "model_version": model_version,
            "cost": _spent(run, idle_seconds),
            "git": git_commit(),
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            "processes": run.world.size,
            "threads": torch.get_num_threads(),
            "packages": {"torch": torch.__version__, "open_clip_torch": open_clip.__version__},
        }
        write_json(folder / MACHINE, facts)


def _spent(run: FinishedRun, idle_seconds: float) -> dict[str, float]:
    """What the run took of this machine; seconds include earlier attempts."""
    seconds = run.fitted.seconds
    samples = run.plan.recipe.budget.steps * run.plan.recipe.budget.batch_size
    return {
        **seconds,
        "total_seconds": seconds["train_seconds"] + idle_seconds,
        "samples_per_second": samples / seconds["train_seconds"],
        "data_wait_share": seconds["data_seconds"] / seconds["train_seconds"],
        "model_flops_utilisation": run.fitted.utilisation,
        "memory_gib": run.fitted.memory_gib,
        "first_step_seconds": run.fitted.first_step_seconds,
    }


def _flops(fitted: Fitted, budget: BudgetConfig) -> float:
    """Operations of all steps, on all ranks together."""
    return fitted.earlier_flops + fitted.flops * (budget.steps - fitted.earlier_steps) * budget.batch_size


def git_commit() -> str:
    """Return the commit in use, with ``-dirty`` when tracked files differ from it, or ``unknown`` outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
