"""Run under torchrun by test_cut_ranks.py: every rank trains its rows past the cut, and tells what it holds then."""

import hashlib
import itertools
import json
import sys
from pathlib import Path

import torch.distributed as dist

from assets.config import MachineConfig
from assets.progress import Stage
from assets.section import parse
from tests.training.distillation import online
from tests.training.engine.rank_cases import BATCH, global_batch
from training.config import RecipeConfig
from training.engine.distributed import world
from training.engine.loop import Fit, Trainer
from training.models.build import build_method
from training.models.dense_export import load_dense


def main(file: Path) -> None:
    """Train what a JSON file says: {recipe, machine, teacher}."""
    case = json.loads(file.read_text())
    recipe, machine = parse(RecipeConfig, case["recipe"], "recipe"), parse(MachineConfig, case["machine"], "machine")
    with world(machine) as here:
        big = load_dense(Path(case["teacher"]))
        method = build_method(recipe, 0, start=big, teacher=online(big))[0]
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
