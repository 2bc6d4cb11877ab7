"""Trainer: resume, step, log, checkpoint. It never asks which method it trains."""

import math
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from assets.progress import Progress, Stage
from training.config import RecipeConfig
from training.data.loader import Batch, StepDataset, batches
from training.engine.checkpoint import load_checkpoint, save_checkpoint
from training.engine.clock import TrainClock
from training.engine.distributed import World, share_batch_norm
from training.engine.metrics import MetricLog
from training.engine.optim import build_optimizer, learning_rate, set_learning_rate
from training.methods.base import Method, StepOutput

RESUMABLE = 75
"""Exit code of a run that was asked to stop, saved a checkpoint and can go on (EX_TEMPFAIL)."""


class Stopped(SystemExit):
    """Raised after a signal, once the checkpoint is on disk."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What a training run needs beside its method.

    Attributes:
        recipe: How to train.
        seed: Decides order, views and draws inside the method.
        work: Where checkpoints and the metric log live between attempts.
        workers: Loader processes.
    """

    recipe: RecipeConfig
    seed: int
    work: Path
    workers: int


@contextmanager
def _stop_on_signal() -> Generator[Callable[[], bool]]:
    """Turn SIGINT and SIGTERM into a flag that the loop looks at after each step."""
    asked = False

    def ask(_signal: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = True

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _to_device(batch: Batch, device: torch.device) -> Batch:
    return {
        "image": batch["image"].to(device, non_blocking=True),
        "text": batch["text"].to(device, non_blocking=True),
        "sample_id": batch["sample_id"].to(device, non_blocking=True),
    }


class Trainer:
    """One method, its optimiser and its place among the processes."""

    def __init__(self, method: Method, fit: Fit, world: World) -> None:
        share_batch_norm(method, world)
        self.method = method.to(world.device)
        self.fit, self.world = fit, world
        self.optimizer = build_optimizer(self.method, fit.recipe.optim)
        self.steps = fit.recipe.budget.steps
        forward: nn.Module = self.method
        if world.size > 1:
            forward = DistributedDataParallel(
                forward, device_ids=[world.device] if world.device.type == "cuda" else None
            )
        if fit.recipe.compile:
            forward.compile()
        self._forward = forward

    def step(self, batch: Batch, step: int) -> dict[str, float]:
        """Run one optimiser step.

        Args:
            batch: This rank's rows.
            step: Number of the step, from 0.

        Returns:
            Loss terms, logs, gradient norm before clipping and learning rate, for the curves.

        Raises:
            FloatingPointError: A loss term or gradient is not finite; the weights are those before the step.
        """
        optim = self.fit.recipe.optim
        lr = learning_rate(optim, step, self.steps)
        set_learning_rate(self.optimizer, lr)
        # draws inside the method are seeded per step, so a checkpoint holds no generator state
        torch.manual_seed(int(np.random.SeedSequence([self.fit.seed, step, self.world.rank]).generate_state(1)[0]))
        bf16 = self.fit.recipe.precision == "bf16"
        with torch.autocast(self.world.device.type, dtype=torch.bfloat16, enabled=bf16):
            output: StepOutput = self._forward(_to_device(batch, self.world.device), step)
        loss = torch.stack(list(output.losses.values())).sum()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.method.parameters(), optim.gradient_clip or math.inf)
        scalars = {"loss": loss, "grad_norm": norm, **output.losses, **output.logs}
        values = dict(zip(scalars, torch.stack([v.detach().float() for v in scalars.values()]).tolist(), strict=True))
        self._refuse_non_finite(values, step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.after_step(step)
        return {**values, "lr": lr}

    def _refuse_non_finite(self, values: dict[str, float], step: int) -> None:
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise FloatingPointError(
                f"step {step} of method {self.fit.recipe.method['kind']}: {', '.join(bad)} not finite; lower optim.lr, "
                f"lengthen optim.warmup_steps or set optim.gradient_clip; the last checkpoint is under {self.fit.work}"
            )

    def run(self, dataset: StepDataset, stage: Stage) -> TrainClock:
        """Train to the end of the budget, from the newest checkpoint if there is one.

        Args:
            dataset: Step -> batch.
            stage: Progress and log.

        Returns:
            The clock, with the seconds of earlier attempts included.

        Raises:
            Stopped: A signal came; everything is saved.
        """
        recipe = self.fit.recipe
        first = load_checkpoint(self.fit.work / "checkpoints", self.method, self.optimizer)
        if first:
            stage.log.info("%s goes on from step %d of %d", stage.name, first, self.steps)
        clock = TrainClock(self.fit.work / "seconds.json", first)
        log = MetricLog(self.fit.work / "metrics.jsonl", first) if self.world.is_main else None
        source = batches(dataset, first, self.steps, self.fit.workers, self.world.device.type == "cuda")
        self.method.train()
        with _stop_on_signal() as asked_to_stop, stage.progress("train", self.steps, "step", first) as progress:
            for step in range(first, self.steps):
                with clock.waiting():
                    batch = next(source)
                values = self.step(batch, step)
                done = step + 1
                if log is not None:
                    if step % recipe.log_every == 0 or done == self.steps:
                        log.append(step, {f"train/{name}": value for name, value in values.items()})
                    self._advance(progress, values, clock, done - first)
                if asked_to_stop():
                    self._save(done, clock)
                    stage.log.warning("%s stopped after step %d; run it again to go on", stage.name, step)
                    raise Stopped(RESUMABLE)
                if done % recipe.checkpoint_every == 0 and done < self.steps:
                    self._save(done, clock)
        return clock

    def _advance(self, progress: Progress, values: dict[str, float], clock: TrainClock, done_here: int) -> None:
        seen = done_here * self.fit.recipe.budget.batch_size
        progress.advance(
            loss=values["loss"],
            samples_per_second=seen / max(clock.attempt_seconds, 1e-9),
            data_wait_share=clock.data_wait_seconds / max(clock.train_seconds, 1e-9),
        )

    def _save(self, done: int, clock: TrainClock) -> None:
        if self.world.is_main:
            save_checkpoint(self.fit.work / "checkpoints", done, self.method, self.optimizer)
            clock.save()
