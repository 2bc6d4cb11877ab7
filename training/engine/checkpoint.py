"""Checkpoints from which training goes on bit for bit: weights and moments as safetensors, the rest as JSON.

No random state is kept: every step seeds its own draws (see ``engine/step.py``), and the sample order is a function of
the seed. A checkpoint is the folder ``step-00000100``, renamed into place when complete, so a kill leaves none or a
whole one. Tensors are stored whole, whatever number of ranks they were spread over, so any number of ranks goes on.
"""

import json
import re
import shutil
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from assets.atomic import atomic_folder, write_json
from assets.errors import DataError, message
from training.engine.ema import WeightAverage

_STEP = re.compile(r"step-(\d{8})")
_BEST = "best"


@dataclass(frozen=True, slots=True)
class TrainState:
    """What a step changes and a checkpoint must hold.

    Attributes:
        method: Its whole state dict, buffers included.
        optimizer: Built by ``build_optimizer``.
        average: The averaged weights, where the recipe wants them.
    """

    method: nn.Module
    optimizer: Optimizer
    average: WeightAverage | None

    def snapshot(self) -> dict[str, dict[str, Tensor]]:
        """Copy every tensor to main memory, whole; all ranks must call it together.

        Returns:
            File name without suffix -> tensors.
        """
        files = {"method": self.method.state_dict(), "optimizer": _moments(self.optimizer)}
        if self.average is not None:
            files["average"] = self.average.tensors
        return {file: {name: whole(value) for name, value in tensors.items()} for file, tensors in files.items()}

    def load(self, checkpoint: Path) -> None:
        """Take over the tensors of a checkpoint.

        Args:
            checkpoint: A complete checkpoint folder.

        Raises:
            DataError: It belongs to another model or recipe.
        """
        with _of_this_recipe(checkpoint):
            self._load_weights(checkpoint)
            self._load_moments(load_file(checkpoint / "optimizer.safetensors"))

    def load_weights(self, checkpoint: Path) -> None:
        """Take over the weights alone, averaged ones included; otherwise as :meth:`load`."""
        with _of_this_recipe(checkpoint):
            self._load_weights(checkpoint)

    def _load_weights(self, checkpoint: Path) -> None:
        _fill(self.method.state_dict(), load_file(checkpoint / "method.safetensors"))
        if self.average is not None:
            _fill(self.average.tensors, load_file(checkpoint / "average.safetensors"))

    def _load_moments(self, tensors: dict[str, Tensor]) -> None:
        for group in self.optimizer.param_groups:
            for name, parameter in zip(group["names"], group["params"], strict=True):
                prefix = f"{name}/"
                state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
                # AdamW's fused kernel wants its step counter beside the parameter
                self.optimizer.state[parameter] = {key: _laid_out(value, parameter) for key, value in state.items()}


@contextmanager
def _of_this_recipe(checkpoint: Path) -> Generator[None]:
    """Turn what a checkpoint of another model leads to into one clear error."""
    try:
        yield
    except (KeyError, ValueError, FileNotFoundError) as error:
        raise DataError(
            message(
                f"checkpoint {checkpoint} is of another recipe ({error})",
                fix=f"remove {checkpoint.parent} to start anew",
            )
        ) from error


def whole(value: Tensor) -> Tensor:
    """Return a copy in main memory, put together from all ranks where it is sharded."""
    full = value.full_tensor() if isinstance(value, DTensor) else value
    # the optimiser goes on changing the tensor while the copy is being written
    return full.detach().to("cpu", copy=True).contiguous()


def _laid_out(value: Tensor, like: Tensor) -> Tensor:
    """Put a whole tensor where ``like`` is; scalars (step counters) are never sharded."""
    if isinstance(like, DTensor) and value.ndim:
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return value.to(like.device)


def _moments(optimizer: Optimizer) -> dict[str, Tensor]:
    """Name each tensor of the optimiser's state after its parameter."""
    return {
        f"{name}/{key}": value
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
        for key, value in optimizer.state[parameter].items()
    }


@torch.no_grad()
def _fill(target: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> None:
    """Copy tensors of the same names and shapes."""
    if different := sorted(target.keys() ^ source.keys()):
        raise ValueError(f"tensors in one of both only: {', '.join(different[:4])}")
    for name, value in target.items():
        if value.shape != source[name].shape:
            raise ValueError(f"{name} is {list(source[name].shape)}, wanted {list(value.shape)}")
    for name, value in target.items():
        value.copy_(_laid_out(source[name], value))


class Checkpoints:
    """The checkpoints of one run; the main process writes them in the background."""

    def __init__(self, folder: Path, keep: int) -> None:
        """Look after a folder.

        Args:
            folder: Where the checkpoints live.
            keep: How many of the newest stay.
        """
        self._folder, self._keep = folder, keep
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def complete(self) -> list[Path]:
        """Return the complete checkpoints, oldest first."""
        return sorted(path for path in self._folder.glob("step-*") if _STEP.fullmatch(path.name))

    @property
    def best(self) -> Path | None:
        """The checkpoint with the best held-out loss, or None."""
        path = self._folder / _BEST
        return path if path.is_dir() else None

    def load(self, state: TrainState) -> int:
        """Load the newest checkpoint, if there is one.

        Args:
            state: Gets the tensors.

        Returns:
            Steps done: 0 without a checkpoint.

        Raises:
            DataError: The checkpoint belongs to another model or recipe.
        """
        found = self.complete()
        if not found:
            return 0
        state.load(found[-1])
        return int(read_facts(found[-1])["step"])

    def save(self, files: dict[str, dict[str, Tensor]], facts: dict[str, Any], best: bool = False) -> None:
        """Begin to write the state after ``facts["step"]`` steps; waits for the one before.

        Args:
            files: From :meth:`TrainState.snapshot`.
            facts: JSON-serialisable, ``step`` included.
            best: Also keep it as the best one so far.

        Raises:
            OSError: The write before failed.
        """
        self.wait()
        self._thread = threading.Thread(target=self._write, args=(files, facts, best), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Wait until everything is on disk.

        Raises:
            OSError: The write failed.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _write(self, files: dict[str, dict[str, Tensor]], facts: dict[str, Any], best: bool) -> None:
        try:
            if best:  # first, so that a kill in between repeats it from the checkpoint before
                _write_folder(self._folder / _BEST, {k: v for k, v in files.items() if k != "optimizer"}, facts)
            _write_folder(self._folder / f"step-{facts['step']:08d}", files, facts)
            for old in self.complete()[: -self._keep]:
                shutil.rmtree(old)
        except BaseException as failure:
            self._failure = failure


def _write_folder(target: Path, files: dict[str, dict[str, Tensor]], facts: dict[str, Any]) -> None:
    with atomic_folder(target) as partial:
        for name, tensors in files.items():
            save_file(tensors, partial / f"{name}.safetensors")
        write_json(partial / "state.json", facts)


def read_facts(checkpoint: Path) -> dict[str, Any]:
    """Return what was noted with a checkpoint: ``step``, seconds, held-out scores."""
    return json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
