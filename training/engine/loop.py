"""Trainer: resume, step, log, look at held-out pairs, checkpoint. It never asks which method it trains."""

import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch.distributed as dist
from torch import Tensor

from assets.config import MachineConfig
from assets.progress import Stage
from training.config import RecipeConfig
from training.data.loader import Batch
from training.engine.checkpoint import Checkpoints, TrainState, read_facts, whole
from training.engine.clock import PHASES, TrainClock
from training.engine.distributed import World, agree_on_step
from training.engine.episode import EmbedSettings, Episodes, SnapshotSource, StopAsked
from training.engine.flops import FlopsProbe
from training.engine.holdout import LOSS, holdout_scores
from training.engine.metrics import MetricLog
from training.engine.profile import traced_steps
from training.engine.step import Stepper, StepResult
from training.engine.throughput import peak_flops, peak_memory_gib, process_seconds
from training.methods.base import Method

RESUMABLE = 75
"""Exit code of a run that was asked to stop, saved a checkpoint and can go on (EX_TEMPFAIL)."""


_KEPT = ("holdout", "best", "flops", "earlier_flops", "earlier_steps")
"""What of :class:`Fitted` a checkpoint holds."""


class Stopped(SystemExit):
    """Raised after a signal, once the checkpoint is on disk."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What a training run needs beside its method.

    Attributes:
        recipe: How to train.
        machine: How the machine is used.
        seed: Decides order, views and draws inside the method.
        work: Where checkpoints and curves live between attempts.
        profile: Where to write a trace of a few steps; None writes none.
    """

    recipe: RecipeConfig
    machine: MachineConfig
    seed: int
    work: Path
    profile: Path | None = None


@dataclass(slots=True)
class Fitted:
    """How a run ended.

    Attributes:
        seconds: ``train_seconds`` and the seconds of every phase, all attempts together.
        attempt_seconds: Seconds of the last attempt alone.
        holdout: Scores on the held-out pairs after the last step, empty without such pairs.
        best: Step and scores of the least held-out loss, empty likewise.
        first_step_seconds: From the start of the process to the end of the first step, in the last attempt.
        memory_gib: The most memory this process has held.
        flops: Operations of a step per sample; of the model's last shape, where that changes.
        earlier_flops: Operations in all of steps with earlier shapes.
        earlier_steps: Number of these steps.
        episode_flops: Operations in all between episodes: embedding pairs, clustering them.
        utilisation: Model-FLOPs utilisation of this attempt, 0 to 1.
    """

    seconds: dict[str, float]
    attempt_seconds: float = 0.0
    holdout: dict[str, float] = field(default_factory=dict[str, float])
    best: dict[str, float] = field(default_factory=dict[str, float])
    first_step_seconds: float = 0.0
    memory_gib: float = 0.0
    flops: float = 0.0
    earlier_flops: float = 0.0
    earlier_steps: int = 0
    episode_flops: float = 0.0
    utilisation: float = 0.0


@contextmanager
def stop_on_signal() -> Generator[Callable[[], bool]]:
    """Turn SIGINT and SIGTERM into a flag that the loop looks at in each step."""
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


class Trainer:
    """One run from its newest checkpoint to the end of its budget."""

    def __init__(
        self,
        method: Method,
        fit: Fit,
        world: World,
        holdout: list[Batch] | None = None,
        snapshots: SnapshotSource | None = None,
    ) -> None:
        """Prepare.

        Args:
            method: Freshly built.
            fit: Recipe, machine and places.
            world: The ranks.
            holdout: Batches of held-out pairs, in main memory.
            snapshots: What a method with episodes embeds.
        """
        self.fit, self.world = fit, world
        self._probe = FlopsProbe(method)
        self.method = method
        self._prepare()
        embedding = EmbedSettings(fit.seed, fit.machine.micro_batch, fit.recipe.precision == "bf16")
        self.episodes = Episodes(self.method, self._probe, embedding, world, snapshots)
        self.checkpoints = Checkpoints(fit.work / "checkpoints", fit.recipe.checkpoint_keep)
        self.steps = fit.recipe.budget.steps
        self._holdout = holdout or []
        self._peak = peak_flops(world.device, fit.recipe.precision == "bf16") * world.size if world.is_main else 1.0

    def _prepare(self) -> None:
        """Build what steps a method of this shape."""
        fit = self.fit
        self.stepper = Stepper(self.method, fit.recipe, fit.machine, self.world, fit.seed)
        self.state = TrainState(self.method, self.stepper.optimizer, self.stepper.average)

    def _load(self) -> tuple[int, dict[str, Any]]:
        """Go back to the newest checkpoint; return the steps done and its facts, 0 and nothing without one."""
        found = self.checkpoints.complete()
        if not found:
            return 0, {}
        facts = read_facts(found[-1])
        if facts.get("structure"):
            self.method.restore_structure(facts["structure"])
            self._prepare()
            self._probe.renew(self.method)
        return self.checkpoints.load(self.state), facts

    def _reshape(self, step: int, fitted: Fitted, stage: Stage) -> None:
        """Let the method change its shape; moments and averages begin anew, and so does the search for the best."""
        told = self.method.reshape()
        self._prepare()
        self._probe.renew(self.method)
        samples = (step - fitted.earlier_steps) * self.fit.recipe.budget.batch_size
        fitted.earlier_flops += fitted.flops * samples
        fitted.earlier_steps, fitted.flops, fitted.best = step, 0.0, {}
        self.method.train()
        if self.world.is_main:
            stage.log.info("%s before step %d: %s", stage.name, step, told)

    def run(self, source: Callable[[int], Iterator[Batch]], stage: Stage) -> Fitted:
        """Train to the end of the budget, from the newest checkpoint if there is one.

        Args:
            source: First step -> this rank's batches from there on, on its device.
            stage: Progress and log.

        Returns:
            Seconds, held-out scores and use of the hardware.

        Raises:
            Stopped: A signal came; everything is saved.
        """
        first, facts = self._load()
        agree_on_step(first, self.world, self.fit.work)
        if first:
            stage.log.info("%s goes on from step %d of %d", stage.name, first, self.steps)
        fitted = Fitted({}, **{name: facts[name] for name in _KEPT if name in facts})
        self.episodes.flops = facts.get("episode_flops", 0.0)
        clock = TrainClock(facts.get("seconds", {}), self.world.device)
        log = MetricLog(self.fit.work / "curves", first, self.fit.machine.tensorboard) if self.world.is_main else None
        batches = source(first)
        self.method.train()
        with (
            stop_on_signal() as asked_to_stop,
            stage.progress("train", self.steps, "step", first) as progress,
            traced_steps(self.fit.profile if self.world.is_main else None, stage) as traced,
        ):
            for step in range(first, self.steps):
                with self._stopping(step, fitted, clock, stage):
                    self.episodes.begin(step, clock, stage, asked_to_stop)
                with clock.phase("data"):
                    batch = next(batches)
                if self.method.reshape_is_due(step):
                    self._reshape(step, fitted, stage)
                if step == first or not fitted.flops:
                    fitted.flops = self._probe.count(batch, self.steps // 2)  # warm-ups are over by then
                result = self.stepper.step(batch, step, clock, asked_to_stop())
                traced()
                fitted.first_step_seconds = fitted.first_step_seconds or process_seconds()
                done = step + 1
                looked = self._look_at_holdout(done, fitted, clock)
                due = looked or step % self.fit.recipe.log_every == 0 or done == self.steps
                seen = {**self.stepper.watch(batch, clock), **(fitted.holdout if looked else {})} if due else {}
                if log is not None:
                    use = self._use(fitted, clock, done - first)
                    if due:
                        with clock.phase("log"):
                            log.append(step, {**_curves(result), **seen, **self._performance(use, clock, done)})
                    progress.advance(1, loss=result.values["loss"], **use)
                if result.stop and done < self.steps:
                    self._save_and_stop(done, fitted, clock, stage)
                self._save_when_due(done, False, fitted, clock)
        self.checkpoints.wait()
        if log is not None:
            log.close()
        fitted.seconds, fitted.attempt_seconds = clock.totals(), clock.attempt_seconds
        fitted.episode_flops, fitted.memory_gib = self.episodes.flops, peak_memory_gib(self.world.device)
        fitted.utilisation = self._use(fitted, clock, self.steps - first)["mfu"]
        return fitted

    def exported_tensors(self) -> dict[str, Tensor]:
        """Return the model's tensors that the recipe exports (last or best, averaged or not), whole, in main memory.

        All ranks must call it together, after :meth:`run`; the method has these weights afterwards.
        """
        if self.world.size > 1:
            dist.barrier()  # the main process may still have been writing the best checkpoint
        config, best = self.fit.recipe.holdout, self.checkpoints.best
        if config is not None and config.export == "best" and best is not None:
            self.state.load_weights(best)
        source = self.method.model.state_dict() if self.stepper.average is None else self.stepper.average.tensors
        return {name: whole(value) for name, value in source.items()}

    def _look_at_holdout(self, done: int, fitted: Fitted, clock: TrainClock) -> bool:
        """Score the held-out pairs when it is time, with the averaged weights where those will be exported."""
        config = self.fit.recipe.holdout
        if config is None or (done % config.every and done != self.steps):
            return False
        with clock.phase("holdout"):
            average = self.stepper.average
            if average is None:
                fitted.holdout = holdout_scores(self.method, self._holdout, self.world.device)
            else:
                with average.in_place():
                    fitted.holdout = holdout_scores(self.method, self._holdout, self.world.device)
        if not fitted.best or fitted.holdout[LOSS] < fitted.best[LOSS]:
            fitted.best = {"step": done, **fitted.holdout}
        return True

    def _use(self, fitted: Fitted, clock: TrainClock, done_here: int) -> dict[str, float]:
        """What the hardware did in this attempt."""
        rate = done_here * self.fit.recipe.budget.batch_size / max(clock.attempt_seconds, 1e-9)
        return {
            "samples_per_second": rate,
            "data_wait_share": clock.data_wait_share,
            "mfu": rate * fitted.flops / self._peak,
        }

    def _performance(self, use: dict[str, float], clock: TrainClock, done: int) -> dict[str, float]:
        """Use of the hardware as curves, with the share of each phase in all seconds."""
        totals = clock.totals()
        seconds = totals["train_seconds"]
        values = {
            **use,
            **{f"{name}_share": totals[f"{name}_seconds"] / seconds for name in PHASES if name != "data"},
            "memory_gib": peak_memory_gib(self.world.device),
            "eta_seconds": (self.steps - done) * self.fit.recipe.budget.batch_size / use["samples_per_second"],
        }
        return {f"perf/{name}": value for name, value in values.items()}

    @contextmanager
    def _stopping(self, done: int, fitted: Fitted, clock: TrainClock, stage: Stage) -> Generator[None]:
        """Stop where the block finds that it has been asked for."""
        try:
            yield
        except StopAsked:
            self._save_and_stop(done, fitted, clock, stage)

    def _save_and_stop(self, done: int, fitted: Fitted, clock: TrainClock, stage: Stage) -> NoReturn:
        """End this attempt as a signal asks, with a checkpoint from which the next one goes on."""
        if done:
            self._save_when_due(done, True, fitted, clock)
        if self.world.is_main:
            place = f"after step {done - 1}" if done else "before its first step"
            stage.log.warning("%s stopped %s; run it again to go on", stage.name, place)
        raise Stopped(RESUMABLE)

    def _save_when_due(self, done: int, stop: bool, fitted: Fitted, clock: TrainClock) -> None:
        """Copy the state on every rank (sharded tensors need all of them); the main one writes it meanwhile."""
        config = self.fit.recipe.holdout
        best = config is not None and config.export == "best" and fitted.best.get("step") == done
        due = done < self.steps and (stop or done % self.fit.recipe.checkpoint_every == 0)
        if not (best or due):
            return
        with clock.phase("checkpoint"):
            files = self.state.snapshot() if self.world.is_main or self.stepper.sharded else {}
            if self.world.is_main:
                kept = {name: getattr(fitted, name) for name in _KEPT}
                cost = {"episode_flops": self.episodes.flops, "seconds": clock.totals()}
                facts = {"step": done, **cost, **kept, "structure": self.method.structure()}
                self.checkpoints.save(files, facts, best)
            if stop:
                self.checkpoints.wait()


def _curves(result: StepResult) -> dict[str, float]:
    return {f"train/{name}": value for name, value in result.values.items()}
