"""Train a captioner: resume, step, log, look at held-out pairs, checkpoint.

The engine's loop looks at held-out pairs with a contrastive loss and exports two towers, so this is a loop of its own,
made of the engine's parts: order, loader, optimiser, checkpoints, curves and clock.
"""

import math
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from assets.progress import Stage
from training.captioner.config import CaptionerConfig
from training.captioner.method import Captioner, captioner_scores
from training.data.loader import Batch, StepDataset, batches
from training.engine.accumulate import total_loss
from training.engine.checkpoint import Checkpoints, TrainState, read_facts
from training.engine.clock import TrainClock
from training.engine.distributed import World, agree_on_step
from training.engine.loop import RESUMABLE, Stopped, stop_on_signal
from training.engine.metrics import MetricLog
from training.engine.optim import build_optimizer, clip_gradients, learning_rate, set_learning_rate
from training.methods.exchange import StepOutput

CURVES = "curves"
_STOP = "stop"


class FitPlace(NamedTuple):
    """Where a captioner is trained.

    Attributes:
        work: Where checkpoints and curves live between attempts.
        world: The ranks.
        workers: Loader processes.
        tensorboard: Whether to write TensorBoard event files.
    """

    work: Path
    world: World
    workers: int
    tensorboard: bool = False


@dataclass(slots=True)
class _State:
    """How far a run is.

    Attributes:
        done: Steps taken.
        first: Where this attempt began.
        clock: Seconds of all attempts.
        holdout: The last scores on held-out pairs.
    """

    done: int
    first: int
    clock: TrainClock
    holdout: dict[str, float] = field(default_factory=dict[str, float])


class CaptionerFit:
    """One captioner from its newest checkpoint to the end of its budget."""

    def __init__(self, captioner: Captioner, place: FitPlace, holdout: list[Batch]) -> None:
        """Prepare.

        Args:
            captioner: Freshly built.
            place: Where it is trained.
            holdout: Batches of held-out pairs, in main memory.
        """
        self.config: CaptionerConfig = captioner.captioner
        self.captioner = captioner.to(place.world.device)
        self._place, self._world, self._holdout = place, place.world, holdout
        self._forward: nn.Module = self.captioner
        if place.world.size > 1:
            devices = [place.world.device] if place.world.device.type == "cuda" else None
            replicas = DistributedDataParallel(self.captioner, device_ids=devices, gradient_as_bucket_view=True)
            replicas.broadcast_buffers = False  # they are the same on every rank by construction
            self._forward = replicas
        self._optimizer = build_optimizer(self.captioner, self.config.optim)
        self._train_state = TrainState(self.captioner, self._optimizer, None)
        self._checkpoints = Checkpoints(place.work / "checkpoints", self.config.checkpoint_keep)
        self._steps = self.config.budget.steps

    def run(self, dataset: StepDataset, stage: Stage) -> dict[str, float]:
        """Train to the end of the budget.

        Args:
            dataset: Steps to this rank's batches.
            stage: Progress and log.

        Returns:
            Scores on the held-out pairs after the last step.

        Raises:
            Stopped: A signal came; everything is saved.
            FloatingPointError: A loss term or gradient is not finite.
        """
        world = self._world
        first = self._checkpoints.load(self._train_state)
        agree_on_step(first, world, self._place.work)
        facts = read_facts(self._checkpoints.complete()[-1]) if first else {}
        if first:
            stage.log.info("%s goes on from step %d of %d", stage.name, first, self._steps)
        state = _State(first, first, TrainClock(facts.get("seconds", {}), world.device), facts.get("holdout", {}))
        log = MetricLog(self._place.work / CURVES, first, self._place.tensorboard) if world.is_main else None
        source = batches(dataset, first, self._steps, self._place.workers, world.device)
        self.captioner.train()
        with stop_on_signal() as asked, stage.progress("train", self._steps, "step", first) as progress:
            for step in range(first, self._steps):
                values, stop = self._step(source, state, asked())
                looked = self._look_at_holdout(state)
                if log is not None:
                    use = self._use(state)
                    if looked or step % self.config.log_every == 0 or state.done == self._steps:
                        log.append(step, {**values, **(state.holdout if looked else {}), **use})
                    progress.advance(1, loss=values["train/loss"], pairs_per_second=use["perf/samples_per_second"])
                if stop and state.done < self._steps:
                    self._save(state)
                    self._checkpoints.wait()
                    stage.log.warning("%s stopped after step %d; run it again to go on", stage.name, step)
                    raise Stopped(RESUMABLE)
                if state.done % self.config.checkpoint_every == 0 and state.done < self._steps:
                    self._save(state)
        self._checkpoints.wait()
        if log is not None:
            log.close()
        seconds = state.clock.totals()["train_seconds"]
        stage.log.info("%s: %d steps in %.0f s of training", stage.name, self._steps, seconds)
        return state.holdout

    def _step(self, source: Iterator[Batch], state: _State, asked: bool) -> tuple[dict[str, float], bool]:
        """Take one optimiser step; return its curves and whether some rank has been asked to stop."""
        config, step, clock = self.config, state.done, state.clock
        with clock.phase("data"):
            batch = next(source)
        lr = learning_rate(config.optim, step, self._steps)
        set_learning_rate(self._optimizer, lr, self.captioner, step, self._steps)
        with clock.phase("forward", on_device=True), self._autocast():
            output: StepOutput = self._forward(batch, step)
            loss = total_loss(output)
        with clock.phase("backward", on_device=True):
            loss.backward()
        with clock.phase("optimizer"):
            norm = clip_gradients(self.captioner, self._optimizer, config.optim.gradient_clip)
            values = self._means(output, loss, norm, asked)  # waits for the device
            clock.collect()
            stop = values.pop(_STOP) > 0
            if bad := [name for name, value in values.items() if not math.isfinite(value)]:
                raise FloatingPointError(
                    f"step {step} of the captioner: {', '.join(bad)} not finite; lower optim.lr, lengthen "
                    "optim.warmup_steps or set optim.gradient_clip"
                )
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            self.captioner.after_step(step)
        state.done += 1
        return {f"train/{name}": value for name, value in {**values, "lr": lr}.items()}, stop

    @contextmanager
    def _autocast(self) -> Generator[None]:
        with torch.autocast(self._world.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            yield

    def _means(self, output: StepOutput, loss: Tensor, norm: Tensor, asked: bool) -> dict[str, float]:
        """Average the step's scalars over ranks in one message."""
        scalars = {"loss": loss, **output.losses, **output.logs, _STOP: norm.new_tensor(float(asked))}
        stacked = torch.stack([value.detach().double() for value in scalars.values()])
        if self._world.size > 1:
            dist.all_reduce(stacked)
            stacked /= self._world.size
        return dict(zip([*scalars, "grad_norm"], [*stacked.tolist(), float(norm)], strict=True))

    def _look_at_holdout(self, state: _State) -> bool:
        """Score the held-out pairs when it is time."""
        if state.done % self.config.holdout.every and state.done != self._steps:
            return False
        with state.clock.phase("holdout"):
            state.holdout = captioner_scores(self.captioner, self._holdout, self._world.device)
        return True

    def _use(self, state: _State) -> dict[str, float]:
        """Speed of this attempt, and the time that is left."""
        seen = (state.done - state.first) * self.config.budget.batch_size
        rate = seen / max(state.clock.attempt_seconds, 1e-9)
        left = (self._steps - state.done) * self.config.budget.batch_size
        values = {
            "samples_per_second": rate,
            "eta_seconds": left / rate,
            "data_wait_share": state.clock.data_wait_share,
        }
        return {f"perf/{name}": value for name, value in values.items()}

    def _save(self, state: _State) -> None:
        """Write a checkpoint in the background; only the main process does."""
        if not self._world.is_main:
            return
        with state.clock.phase("checkpoint"):
            facts = {"step": state.done, "holdout": state.holdout, "seconds": state.clock.totals()}
            self._checkpoints.save(self._train_state.snapshot(), facts)
