"""Checkpoints from which training goes on bit for bit: weights and moments as safetensors, the rest as JSON.

No random state is kept: every step seeds its own draws (see ``engine/loop.py``), and the sample order is a function of
the seed. A checkpoint is the folder ``step-00000100``, renamed into place when complete, so a kill leaves none or a
whole one.
"""

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from assets.atomic import atomic_folder, write_json
from assets.errors import DataError, message
from training.methods.base import Method

_PREFIX = "step-"


def _optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Name each tensor of the optimiser's state after its parameter."""
    tensors: dict[str, Tensor] = {}
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for key, value in optimizer.state[parameter].items():
                tensors[f"{name}/{key}"] = value.detach().cpu().contiguous()
    return tensors


def _load_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            prefix = f"{name}/"
            state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            # AdamW's fused kernel wants its step counter beside the parameter
            optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in state.items()}


def save_checkpoint(folder: Path, step: int, method: Method, optimizer: Optimizer, keep: int = 2) -> Path:
    """Write the state after ``step`` optimiser steps and drop all but the newest checkpoints.

    Args:
        folder: Where checkpoints live.
        step: Steps done.
        method: Its whole state dict, buffers included.
        optimizer: Built by ``build_optimizer``.
        keep: How many checkpoints stay.

    Returns:
        The new checkpoint.
    """
    target = folder / f"{_PREFIX}{step:08d}"
    with atomic_folder(target) as partial:
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in method.state_dict().items()}, partial / "method.safetensors"
        )
        save_file(_optimizer_tensors(optimizer), partial / "optimizer.safetensors")
        write_json(partial / "state.json", {"step": step})
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if path.suffix != ".partial")


def load_checkpoint(folder: Path, method: Method, optimizer: Optimizer) -> int:
    """Load the newest checkpoint, if there is one.

    Args:
        folder: Where checkpoints live.
        method: Gets the weights.
        optimizer: Gets the moments.

    Returns:
        Steps done: 0 without a checkpoint.

    Raises:
        DataError: The checkpoint belongs to another model.
    """
    found = checkpoints(folder)
    if not found:
        return 0
    newest = found[-1]
    try:
        method.load_state_dict(load_file(newest / "method.safetensors"))
    except RuntimeError as error:
        raise DataError(
            message(f"checkpoint {newest} is of another recipe ({error})", fix=f"remove {folder} to start anew")
        ) from error
    _load_optimizer(optimizer, load_file(newest / "optimizer.safetensors"))
    return int(json.loads((newest / "state.json").read_text(encoding="utf-8"))["step"])
