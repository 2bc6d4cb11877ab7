"""Run under torchrun by test_cut_ranks.py: every rank trains its rows past the cut, and tells what it holds then."""

import hashlib
import itertools
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from assets.config import MachineConfig
from assets.progress import Stage
from assets.section import parse
from training.config import RecipeConfig, RunConfig
from training.engine.distributed import world
from training.engine.loop import Fit, Trainer
from training.lineage import open_lineage
from training.models.build import build_method

BATCH = 16


def global_batch(step: int) -> dict[str, torch.Tensor]:
    """Make the batch of a step, the same on every rank."""
    random = torch.Generator().manual_seed(step)
    text = torch.zeros(BATCH, 16, dtype=torch.int64)
    text[:, 0], text[:, 3] = 49406, 49407
    text[:, 1:3] = torch.randint(300, 40000, (BATCH, 2), generator=random)
    image = torch.randint(0, 256, (BATCH, 3, 32, 32), generator=random).to(torch.uint8)
    return {"image": image, "text": text, "seed": torch.arange(BATCH) + 100 * step}


def main(file: Path) -> None:
    """Train what a JSON file says: {run, recipe, machine, teacher}."""
    case = json.loads(file.read_text())
    recipe, machine = parse(RecipeConfig, case["recipe"], "recipe"), parse(MachineConfig, case["machine"], "machine")
    with world(machine) as here:
        run = parse(RunConfig, case["run"], "run")
        lineage = open_lineage(run, recipe, (Path(case["teacher"]), None), {})
        method = build_method(recipe, 0, start=lineage.start, teacher=lineage.teacher)[0]
        trainer = Trainer(method, Fit(recipe, machine, 0, file.parent / "work"), here)
        rows = slice(here.rank * BATCH // here.size, (here.rank + 1) * BATCH // here.size)
        with Stage("cut_ranks", quiet=True) as stage:
            trainer.run(
                lambda first: ({n: v[rows] for n, v in global_batch(step).items()} for step in itertools.count(first)),
                stage,
            )
        digest = hashlib.sha256()
        for name, value in sorted(method.state_dict().items()):
            digest.update(name.encode() + value.numpy().tobytes())
        told = {"weights": digest.hexdigest(), "dims": method.structure(), "parameters": _parameters(method)}
        every = [told] * here.size
        dist.all_gather_object(every, told)
        if here.is_main:
            (file.parent / "ranks.json").write_text(json.dumps(every))


def _parameters(method) -> int:
    return sum(p.numel() for p in method.parameters())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
