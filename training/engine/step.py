"""One optimiser step: forward, backward, clip, update, on one process or many, in one pass or two."""

import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from assets.config import MachineConfig
from assets.errors import ConfigError, message
from training.config import RecipeConfig
from training.data.loader import Batch
from training.engine.accumulate import average_gradients, parts_of, total_loss, two_pass_forward
from training.engine.clock import TrainClock
from training.engine.distributed import World, has_batch_norm, share_batch_norm
from training.engine.ema import WeightAverage
from training.engine.optim import build_optimizer, clip_gradients, learning_rate, set_learning_rate
from training.engine.sharding import shard_blocks
from training.methods.base import Method
from training.methods.exchange import StepOutput

_STOP = "stop"


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step did.

    Attributes:
        values: Loss terms, logs, gradient norm before clipping and learning rate, for the curves; means over ranks.
        stop: Whether any rank has been asked to stop.
    """

    values: dict[str, float]
    stop: bool


class Stepper:
    """A method with its optimiser, prepared for this machine's devices and processes.

    Attributes:
        method: The method, on its device.
        optimizer: AdamW over its parameter groups.
        average: The moving average of the exported model's weights, or None.
        sharded: Whether each rank holds a part of the parameters only.
    """

    def __init__(self, method: Method, recipe: RecipeConfig, machine: MachineConfig, world: World, seed: int) -> None:
        """Prepare.

        Args:
            method: Changed in place.
            recipe: How to train.
            machine: Micro-batch, sharding, compilation, activation checkpointing.
            world: The ranks.
            seed: Of the draws inside the method.

        Raises:
            ConfigError: The method's towers cannot do what ``machine`` asks for.
        """
        rows = recipe.budget.batch_size // world.size
        self._micro_batch = machine.micro_batch if 0 < machine.micro_batch < rows else 0
        if self._micro_batch and has_batch_norm(method):
            raise ConfigError(
                message(
                    "machine.micro_batch is for towers without batch norm, whose statistics are those of the part",
                    machine.micro_batch,
                    fix="set it to 0, or use kind: vit",
                )
            )
        share_batch_norm(method, world)
        self.method = method.to(world.device)
        self._recipe, self._world, self._seed = recipe, world, seed
        if machine.activation_checkpointing:
            self.method.model.set_grad_checkpointing(True)
        if machine.compile == "always" or (machine.compile == "auto" and world.device.type == "cuda"):
            self.method.compile_towers()
        self._forward: nn.Module = self.method
        self.sharded = machine.shard_parameters and world.size > 1
        if self.sharded:
            shard_blocks(self.method, world)
        self._average_gradients = world.size > 1 and (self.sharded or self._micro_batch > 0)
        if world.size > 1 and not self._average_gradients:
            devices = [world.device] if world.device.type == "cuda" else None
            replicas = DistributedDataParallel(self.method, device_ids=devices, gradient_as_bucket_view=True)
            # buffers are the same on every rank by construction, and may be large
            replicas.broadcast_buffers = False
            self._forward = replicas
        self.optimizer = build_optimizer(self.method, recipe.optim)
        decay = recipe.optim.ema_decay
        self.average = None if decay is None else WeightAverage(self.method.model, decay)

    @contextmanager
    def _autocast(self) -> Generator[None]:
        with torch.autocast(self._world.device.type, torch.bfloat16, enabled=self._recipe.precision == "bf16"):
            yield

    def _backward(self, batch: Batch, step: int, clock: TrainClock) -> StepOutput:
        """Leave the gradients of the global batch in the parameters."""
        with clock.phase("forward", on_device=True), torch.no_grad(), self._autocast():
            batch = self.method.enrich(batch)
        if self._micro_batch:
            with clock.phase("forward", on_device=True):
                second = two_pass_forward(self.method, batch, step, self._micro_batch, self._autocast)
            with clock.phase("backward", on_device=True):
                second.backward()
            output = second.output
        else:
            with clock.phase("forward", on_device=True), self._autocast():
                output: StepOutput = self._forward(batch, step)
                loss = total_loss(output)
            with clock.phase("backward", on_device=True):
                loss.backward()
        if self._average_gradients:
            average_gradients(self.method)
        return output

    def step(self, batch: Batch, step: int, clock: TrainClock, stop: bool = False) -> StepResult:
        """Run one optimiser step.

        Args:
            batch: This rank's rows, on its device.
            step: Number of the step, from 0.
            clock: Counts the phases.
            stop: Whether this rank has been asked to stop; the ranks agree on it here.

        Returns:
            Numbers for the curves.

        Raises:
            FloatingPointError: A loss term or gradient is not finite; the weights are those before the step.
        """
        optim = self._recipe.optim
        lr = learning_rate(optim, step, self._recipe.budget.steps)
        set_learning_rate(self.optimizer, lr, self.method, step, self._recipe.budget.steps)
        # draws inside the method are seeded per step, so a checkpoint holds no generator state
        torch.manual_seed(int(np.random.SeedSequence([self._seed, step, self._world.rank]).generate_state(1)[0]))
        self.method.before_step(step, self._recipe.budget.steps)
        output = self._backward(batch, step, clock)
        with clock.phase("optimizer"):
            norm = clip_gradients(self.method, self.optimizer, optim.gradient_clip)
            values = self._means(output, batch, norm, stop)  # waits for the device
            clock.collect()
            asked = values.pop(_STOP) > 0
            self._refuse_non_finite(values, step)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.method.after_step(step)
            if self.average is not None:
                self.average.update(step)
        return StepResult({**values, "lr": lr}, asked)

    def watch(self, batch: Batch, clock: TrainClock) -> dict[str, float]:
        """Take the means of what the method watches in a batch; nothing that training depends on changes.

        Args:
            batch: That of the step just taken, this rank's rows; every rank must call this.
            clock: Counts it as ``log``.

        Returns:
            Name of a curve -> mean over the rows of all ranks that have a value; names without any row are left out.
        """
        with clock.phase("log"), torch.no_grad(), self._autocast():
            parts = [self.method.watch(part) for part in parts_of(batch, self._micro_batch or len(batch["image"]))]
        if not parts[0]:
            return {}
        rows = [torch.cat([part[name].double() for part in parts]) for name in parts[0]]
        sums = torch.stack([torch.stack([values.nansum(), (~values.isnan()).sum()]) for values in rows])  # [names, 2]
        if self._world.size > 1:
            dist.all_reduce(sums)
        return {name: total / count for name, (total, count) in zip(parts[0], sums.tolist(), strict=True) if count}

    def _means(self, output: StepOutput, batch: Batch, norm: torch.Tensor, stop: bool) -> dict[str, float]:
        """Average the step's scalars over ranks in one message."""
        scalars = {"loss": total_loss(output), **output.losses, **output.logs}
        if "text_cut" in batch:  # frozen text has no tokens
            scalars["text_cut_share"] = batch["text_cut"].float().mean()
        if "caption_missing" in batch:  # captions of KEY.json are drawn
            scalars["caption_missing_share"] = batch["caption_missing"].float().mean()
        stacked = torch.stack(
            [*(value.detach().float() for value in scalars.values()), norm.new_tensor(stop, dtype=torch.float32)]
        )
        if self._world.size > 1:
            dist.all_reduce(stacked)
            stacked /= self._world.size
        numbers = torch.cat([stacked, norm.detach().float()[None]]).tolist()
        return dict(zip([*scalars, _STOP, "grad_norm"], numbers, strict=True))

    def _refuse_non_finite(self, values: dict[str, float], step: int) -> None:
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise FloatingPointError(
                f"step {step} of method {self._recipe.method['kind']}: {', '.join(bad)} not finite; lower optim.lr, "
                "lengthen optim.warmup_steps or set optim.gradient_clip"
            )
