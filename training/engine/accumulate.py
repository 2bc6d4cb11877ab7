"""Two-pass feature accumulation: a contrastive batch far larger than memory, with the gradients of the big batch.

Pass one encodes the batch in parts without a graph; the losses are computed once on all features, which gives dL/df for
every feature f. Pass two encodes each part again, now with a graph, and pushes its rows of dL/df through it (GradCache:
Gao et al. 2021, arXiv 2101.06983). Memory is that of one part plus the features; the price is a second forward pass.
Each part replays the random state of its first pass, so dropout and other draws agree.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from training.data.loader import Batch
from training.engine.gather import gather
from training.methods.base import Method
from training.methods.exchange import Features, StepOutput

Autocast = Callable[[], AbstractContextManager[object]]


def parts_of(batch: Batch, rows: int) -> Iterator[Batch]:
    """Split a batch, [B, ...], into pieces of ``rows`` rows, the last one possibly shorter."""
    for start in range(0, len(batch["image"]), rows):
        yield {name: value[start : start + rows] for name, value in batch.items()}


def _random_state(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _set_random_state(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)


def total_loss(output: StepOutput) -> Tensor:
    """Return the sum of the loss terms, a scalar."""
    return torch.stack(list(output.losses.values())).sum()


def two_pass_forward(method: Method, batch: Batch, step: int, rows: int, autocast: Autocast) -> "SecondPass":
    """Encode the batch in parts, compute the losses on all of it, and go back as far as the features.

    Parameters that the losses use themselves (the logit scale) have their gradients afterwards.

    Args:
        method: Its ``encode`` must treat rows independently: no batch norm in training mode.
        batch: This rank's rows, [B, ...].
        step: Optimiser step, from 0.
        rows: Rows that are encoded at a time.
        autocast: Makes the autocast context. Each part enters a new one, because weights cast inside ``no_grad`` stay
            cached without a graph until the context ends.

    Returns:
        What remains to be done, with the step's output.
    """
    device = batch["image"].device
    states: list[list[Tensor]] = []
    parts: list[Features] = []
    for part in parts_of(batch, rows):
        states.append(_random_state(device))
        with torch.no_grad(), autocast():
            parts.append(method.encode(part))
    features = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    for value in features.values():
        value.requires_grad_(value.is_floating_point())
    with autocast():
        output = method.losses(gather(features), step)
        loss = total_loss(output)
    loss.backward()
    gradients = {name: value.grad for name, value in features.items() if value.grad is not None}
    return SecondPass(method, batch, rows, autocast, output, gradients, states)


@dataclass(frozen=True, slots=True)
class SecondPass:
    """The second half of a step: from the gradients of the features to those of the towers.

    Attributes:
        method: Encodes.
        batch: This rank's rows, [B, ...].
        rows: Rows per part.
        autocast: As in the first pass.
        output: Loss terms and logs of the whole batch.
        gradients: Feature name -> dL/df, [B, ...].
        states: Random state before each part.
    """

    method: Method
    batch: Batch
    rows: int
    autocast: Autocast
    output: StepOutput
    gradients: Features
    states: list[list[Tensor]]

    def backward(self) -> None:
        """Encode every part again and add up the gradients of the parameters."""
        device = self.batch["image"].device
        for number, part in enumerate(parts_of(self.batch, self.rows)):
            _set_random_state(self.states[number], device)
            with self.autocast():
                features = self.method.encode(part)
            first = number * self.rows
            roots = [name for name, value in features.items() if value.requires_grad and name in self.gradients]
            torch.autograd.backward(
                [features[name] for name in roots],
                [self.gradients[name][first : first + len(features[name])] for name in roots],
            )


def average_gradients(module: nn.Module) -> None:
    """Average the gradients of the replicated parameters over ranks; sharded ones have been averaged already.

    Args:
        module: Its trainable parameters; one without a gradient on this rank counts as zero.
    """
    replicated = [p for p in module.parameters() if p.requires_grad and not isinstance(p, DTensor)]
    if not replicated or dist.get_world_size() == 1:
        return
    for parameter in replicated:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([parameter.grad.flatten() for parameter in replicated if parameter.grad is not None])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    start = 0
    for parameter in replicated:
        parameter.grad = flat[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
