"""Two real processes find a shape together, though their gates' noise differs."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.conftest import PARAMS
from tests.training.distillation import AUTO, teach, write_model
from tests.training.methods import cut_ranks
from training.engine.metrics import read_rows

STEPS = AUTO["compact_at"] + 3


@pytest.mark.slow
@pytest.mark.parametrize("micro_batch", [0, 3])
def test_all_ranks_cut_alike_and_have_the_same_weights_afterwards(toy_data, tmp_path, micro_batch):
    write_model(tmp_path / "models/big")
    teacher = teach(toy_data, tmp_path, cache=None)
    budget = {"samples_seen": STEPS * 16, "batch_size": 16}
    start = {"towers": {"kind": "start"}, "start": {"source": "teacher"}}
    recipe = copy.deepcopy(PARAMS["recipes"]["clip"]) | start | {"method": AUTO, "budget": budget}
    file = tmp_path / "case.json"
    machine = PARAMS["machine"] | {"micro_batch": micro_batch}
    run = PARAMS["runs"]["toy-s0"] | {"teacher": "teacher"}
    file.write_text(json.dumps({"run": run, "recipe": recipe, "machine": machine, "teacher": str(teacher)}))
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", cut_ranks.__file__, str(file)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    subprocess.run([sys.executable, *command], check=True, timeout=300, env=environment)
    first, second = json.loads((tmp_path / "ranks.json").read_text())
    assert first == second
    assert first["dims"].keys() == {"compact_cfg"}
    rows = {row["step"]: row for row in read_rows(tmp_path / "work/curves/rows.jsonl")}
    assert rows.keys() == set(range(STEPS))
    assert "train/sparsity" in rows[STEPS - 4] and "train/sparsity" not in rows[STEPS - 3]
    assert rows[STEPS - 1]["train/affinity_loss"] > 0
