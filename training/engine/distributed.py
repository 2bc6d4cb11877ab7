"""Processes and devices: one process by default, many under torchrun; gloo on CPU, nccl on GPU."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from assets.config import MachineConfig
from assets.device import pick_device
from assets.errors import ConfigError, DataError, message


@dataclass(frozen=True, slots=True)
class World:
    """This process among all.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
        device: Where this process computes.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0


def has_batch_norm(module: nn.Module) -> bool:
    """Whether some layer's output for a row depends on the other rows of the batch."""
    return any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d | nn.SyncBatchNorm) for m in module.modules())


def share_batch_norm(module: nn.Module, world: World) -> None:
    """Make batch norm see the global batch, so that the number of processes does not change the numbers.

    Args:
        module: Changed in place where it has batch norm.
        world: One process needs nothing.

    Raises:
        ConfigError: Several CPU processes; PyTorch synchronises batch norm on GPUs only.
    """
    if world.size == 1 or not has_batch_norm(module):
        return
    if world.device.type != "cuda":
        raise ConfigError(
            message(
                "the model has batch norm, which PyTorch synchronises between GPUs only",
                f"{world.size} CPU processes",
                "one process",
                "use one process, or towers without batch norm (towers.vision.kind: vit)",
            )
        )
    nn.SyncBatchNorm.convert_sync_batchnorm(module)  # replaces the layers inside


def rank() -> int:
    """Return the number of this process among those that torchrun started, 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


def processes_wanted(machine: MachineConfig) -> int:
    """Return how many processes the stage should have on this machine; 1 where torchrun has been used already.

    Args:
        machine: Section ``machine``.
    """
    if "WORLD_SIZE" in os.environ:
        return 1
    automatic = torch.cuda.device_count() if pick_device(machine).type == "cuda" else 1
    return machine.processes or max(automatic, 1)


@contextmanager
def world(machine: MachineConfig) -> Generator[World]:
    """Join the processes that torchrun started, or stand alone; leave again at the end.

    Args:
        machine: Threads and device.

    Yields:
        This process's place.

    Raises:
        ConfigError: A GPU is demanded and there is none; or torchrun's restarts would not work.
    """
    if machine.threads:
        torch.set_num_threads(machine.threads)
    size = int(os.environ.get("WORLD_SIZE", "1"))  # torchrun's own variables
    if (
        os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
        and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    ):
        raise ConfigError(
            message(
                "torchrun may restart workers, and those would read the addresses of dead ones (pytorch issue 135712)",
                fix="set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in the environment of torchrun",
            )
        )
    device = pick_device(machine, int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(rank(), size, device)
    finally:
        if size > 1:
            dist.destroy_process_group()


def agree_on_step(first: int, world: World, work: Path) -> None:
    """Refuse to go on from different checkpoints, which would end in a deadlock at the last step.

    Args:
        first: Where this rank goes on.
        world: The ranks; all must call it.
        work: Where the checkpoints lie.

    Raises:
        DataError: Some rank goes on elsewhere.
    """
    if world.size == 1:
        return
    found = torch.empty(world.size, dtype=torch.int64, device=world.device)
    dist.all_gather_into_tensor(found, torch.tensor([first], device=world.device))
    steps = sorted(set(found.tolist()))
    if len(steps) > 1:
        raise DataError(
            message(
                f"the processes found different checkpoints in {work}",
                f"steps {steps}",
                "the same one everywhere",
                "put work/ on a file system that all machines share",
            )
        )
