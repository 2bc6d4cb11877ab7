"""Run under torchrun by test_distributed.py: every rank trains its rows of the same batches, in each of the cases."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from assets.config import MachineConfig
from assets.section import parse
from training.config import RecipeConfig
from training.engine.checkpoint import Checkpoints, TrainState
from training.engine.clock import TrainClock
from training.engine.distributed import World, world
from training.engine.step import Stepper
from training.models.build import build_method

STEPS = 3
BATCH = 16


def global_batch(step: int) -> dict[str, torch.Tensor]:
    """Make the batch of a step, the same on every rank."""
    random = torch.Generator().manual_seed(step)
    text = torch.zeros(BATCH, 16, dtype=torch.int64)
    text[:, 0], text[:, 3] = 49406, 49407
    text[:, 1:3] = torch.randint(300, 40000, (BATCH, 2), generator=random)
    image = torch.randint(0, 256, (BATCH, 3, 32, 32), generator=random).to(torch.uint8)
    sample = torch.arange(BATCH)
    return {"image": image, "text": text, "sample_id": sample, "seed": sample + 100 * step, "text_cut": sample < 1}


def train(recipe: RecipeConfig, machine: MachineConfig, here: World, checkpoints: Path) -> dict[str, list[float]]:
    """Train, save, load into a fresh stepper and train on; write the weights and return the curves."""
    losses: list[float] = []
    norms: list[float] = []
    rows = BATCH // here.size
    store = Checkpoints(checkpoints, keep=1)
    clock = TrainClock({}, here.device)
    for first in (0, STEPS):
        stepper = Stepper(build_method(recipe, 0)[0], recipe, machine, here, 0)
        state = TrainState(stepper.method, stepper.optimizer, stepper.average)
        if here.size > 1:
            torch.distributed.barrier()
        assert store.load(state) == first
        for step in range(first, first + STEPS):
            batch = {name: value[here.rank * rows :][:rows] for name, value in global_batch(step).items()}
            values = stepper.step(batch, step, clock).values
            losses.append(values["loss"])
            norms.append(values["grad_norm"])
        files = state.snapshot()
        if here.is_main:
            store.save(files, {"step": first + STEPS})
            store.wait()
    if here.is_main:
        save_file({**files["method"], **files.get("average", {})}, checkpoints / "final.safetensors")
    return {"losses": losses, "norms": norms}


def main(file: Path) -> None:
    """Run every case of a JSON file: name -> {recipe, machine}."""
    cases = json.loads(file.read_text())
    curves = {}
    threads = parse(MachineConfig, next(iter(cases.values()))["machine"], "machine")
    with world(threads) as here:
        for name, case in cases.items():
            recipe, machine = (
                parse(RecipeConfig, case["recipe"], "recipe"),
                parse(MachineConfig, case["machine"], "machine"),
            )
            curves[name] = train(recipe, machine, here, file.parent / name)
        if here.is_main:
            (file.parent / "curves.json").write_text(json.dumps(curves))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
