"""A worker dies: torchrun starts all of them anew, and the run ends as if nothing had happened."""

import json
import re
from pathlib import Path

import pytest

from tests.training.torchrun import RESTARTABLE, WEIGHTS, end, start, tail, torchrun_command, wait_for, worker_of

# port 0: any free one
ELASTIC = ["--nproc-per-node=2", "--max-restarts=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
CHANGES = {"recipes.clip.budget": {"samples_seen": 960, "batch_size": 16}, "recipes.clip.checkpoint_every": 10}


def train(here: Path, params: Path, toy_data: tuple[Path, Path], victim: int | None) -> str:
    """Train with two workers, one of which is killed at the first checkpoint; return the log."""
    here.mkdir()
    log = here / "torchrun.log"
    agent = start(torchrun_command(ELASTIC, params, toy_data, here), here, log, **RESTARTABLE)
    try:
        if victim is not None:
            wait_for(lambda: list(here.glob("work/pretrain/toy-s0/*/checkpoints/step-*[0-9]")), agent, log)
            worker = worker_of(agent, victim)
            assert worker is not None, tail(log)
            worker.kill()
        assert agent.wait(timeout=240) == 0, tail(log)
    finally:
        end(agent)
    return log.read_text()


@pytest.mark.slow
def test_the_death_of_any_worker_changes_no_byte_of_the_model(toy_data, params, tmp_path):
    file = params(**CHANGES)
    assert "goes on from step" not in train(tmp_path / "whole", file, toy_data, None)
    for victim in (0, 1):
        here = tmp_path / f"victim-{victim}"
        log = train(here, file, toy_data, victim)
        assert log.count("goes on from step") == 1, log
        assert json.loads((here / "machine/machine.json").read_text())["processes"] == 2
        for name in (WEIGHTS, "model/manifest.json"):
            assert (here / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_a_signal_to_torchrun_stops_every_worker_after_the_same_step(toy_data, params, tmp_path):
    file = params(**{**CHANGES, "recipes.clip.budget": {"samples_seen": 64000, "batch_size": 16}})
    log = tmp_path / "torchrun.log"
    agent = start(torchrun_command(ELASTIC, file, toy_data, tmp_path), tmp_path, log, **RESTARTABLE)
    try:
        wait_for(lambda: list(tmp_path.glob("work/pretrain/toy-s0/*/checkpoints/step-*[0-9]")), agent, log)
        agent.terminate()
        assert agent.wait(timeout=60) != 0
    finally:
        end(agent)
    steps = re.findall(r"stopped after step (\d+); run it again to go on", log.read_text())
    assert len(steps) == 1, tail(log)  # the main process says so for all
    assert "SIGKILL" not in log.read_text()  # a worker in another step would wait for the others until it is killed
    assert list(tmp_path.glob(f"work/pretrain/toy-s0/*/checkpoints/step-{int(steps[0]) + 1:08d}"))
