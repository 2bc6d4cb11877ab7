import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow

DRIVER = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from conftest import Toy
from dagster import DagsterInstance
from pipelines.process_group import Patience
Toy(Path.cwd()).materialize(DagsterInstance.get(), "models/clip-s0", "runs/clip-s0-summary.json",
    patience=Patience(interrupt=float(sys.argv[2]), terminate=2))
"""


def started(toy, seconds_to_save: float) -> tuple[subprocess.Popen[str], int]:
    """Start a Dagster run of the trainer in a process of its own and wait until it trains."""
    toy.dvc("repro", "-q", "validate")
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(Path(__file__).parent), str(seconds_to_save)],
        cwd=toy.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    pid = toy.root / "work/trainer.pid"
    until = time.monotonic() + 120
    while not pid.is_file() or not pid.read_text():
        assert driver.poll() is None, driver.communicate()[0]
        assert time.monotonic() < until, "the trainer never started"
        time.sleep(0.1)
    time.sleep(0.5)
    return driver, int(pid.read_text())


def runs(pid: int) -> bool:
    """Whether a process lives; one that has ended but was not reaped yet, which its new parent may delay, does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def group_of(trainer: int) -> list[int]:
    group = os.getpgid(trainer)
    return [p.pid for p in psutil.process_iter() if p.pid != group and os.getpgid(p.pid) == group]


def test_an_interrupt_reaches_the_trainer_behind_dvc_and_leaves_nothing_running(toy, instance):
    toy.set(steps=600, seconds_per_step=0.1)
    driver, trainer = started(toy, seconds_to_save=30)
    members = group_of(trainer)

    driver.send_signal(signal.SIGINT)
    output, _ = driver.communicate(timeout=60)

    assert (toy.root / "work/checkpoint").is_file(), output
    assert not any(runs(pid) for pid in [trainer, *members]), output
    assert "sending SIGINT" in output
    assert "sending SIGTERM" not in output
    assert not (toy.root / "models/clip-s0").exists()


def test_a_trainer_that_does_not_stop_is_ended_after_its_time(toy, instance):
    toy.set(steps=600, seconds_per_step=0.1, stubborn=True)
    driver, trainer = started(toy, seconds_to_save=1)

    driver.send_signal(signal.SIGINT)
    output, _ = driver.communicate(timeout=60)

    assert not runs(trainer), output
    assert "sending SIGTERM" in output
    assert not (toy.root / "work/checkpoint").exists()


def test_two_stages_run_at_once_and_a_held_stamp_makes_nobody_wait(toy, instance):
    toy.set(steps=6000, seconds_per_step=0.1)
    driver, trainer = started(toy, seconds_to_save=30)

    result = toy.materialize(instance, "data/raw-emoji")

    assert result.success
    assert runs(trainer), "it waited for the trainer"
    driver.send_signal(signal.SIGINT)
    driver.communicate(timeout=60)
    assert "up to date" in toy.dvc("status", "stamps", "ingest@emoji")
