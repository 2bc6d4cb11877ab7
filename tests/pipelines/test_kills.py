"""Every process of a running UI killed in turn, without a word to it, while a real run trains."""

import os
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from dagster import AssetKey, DagsterInstance, DagsterRunStatus

from pipelines.dvc_project import read_lock
from pipelines.orphaned_runs import fail_orphaned_runs
from pipelines.sensors import recorded_version
from pipelines.ui import Server, serve
from pipelines.ui_supervision import Supervisor
from tests.pipelines.test_ui import free_port, launch, wait_until

pytestmark = pytest.mark.slow

MODEL, SUMMARY = ["models", "clip-s0"], ["runs", "clip-s0-summary.json"]


class House:
    """A project with its UI, kept alive as ``run_ui`` keeps it."""

    def __init__(self, toy, server: Server, instance: DagsterInstance) -> None:
        self.toy, self.server, self.instance = toy, server, instance
        self.keep_alive = threading.Event()
        self.keep_alive.set()
        self.said: list[str] = []
        self._supervisor = Supervisor(server, server.respawn, self.said.append)

    @contextmanager
    def supervised(self) -> Generator[None]:
        over = threading.Event()

        def look() -> None:
            while not over.wait(0.2):
                if self.keep_alive.is_set():
                    self._supervisor.look(time.monotonic())

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def train(self, steps: int) -> tuple[str, int]:
        """Launch a run that trains anew; return its id and the trainer's process once it trains."""
        self.toy.set(steps=steps, seconds_per_step=0.1)
        pid = self.toy.root / "work/trainer.pid"
        pid.unlink(missing_ok=True)
        run = launch(self.server.url, MODEL, SUMMARY)
        wait_until(lambda: pid.is_file() and pid.read_text(), 180, f"the trainer starts; {self.state(run)}")
        time.sleep(1)
        return run, int(pid.read_text())

    def status(self, run: str) -> DagsterRunStatus:
        return self.instance.get_run_by_id(run).status

    def state(self, run: str) -> str:
        return "\n".join(entry.message for entry in self.instance.all_logs(run)[-20:])

    def kill(self, name: str) -> int:
        """Kill a process of the UI and wait until it runs again."""
        old = self.server.processes[name]
        os.kill(old.pid, signal.SIGKILL)
        wait_until(lambda: self.server.processes[name] is not old, 60, f"{name} runs again")
        return old.pid

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.server.url}/server_info", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def check_success(self, run: str, steps: int) -> None:
        """The run went well, its output is whole, and Dagster, dvc.lock and the files agree."""
        wait_until(lambda: self.instance.get_run_by_id(run).is_finished, 180, f"the run ends; {self.state(run)}")
        assert self.status(run) == DagsterRunStatus.SUCCESS, self.state(run)
        root = self.toy.root
        assert f'"steps": {steps}' in (root / "models/clip-s0/manifest.json").read_text()
        assert "up to date" in self.toy.dvc("status", "stamps", "ingest", "validate", "pretrain")
        outs = read_lock(root)["pretrain@clip-s0"].outs
        assert recorded_version(self.instance, AssetKey(MODEL)) == outs["models/clip-s0"].md5
        assert recorded_version(self.instance, AssetKey(SUMMARY)) == outs["runs/clip-s0/summary.json"].md5
        assert workers(root) == []


def workers(root: Path) -> list[str]:
    """Every live DVC or stage process of the project."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            ours = any(word in ("dvc", "toy_stages.py") or word.endswith("guardian.py") for word in words)
            if ours and process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()) == root:
                found.append(f"{process.pid} {' '.join(words)}")
        except psutil.Error:
            continue
    return found


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def masters(trainer: int) -> tuple[int, int]:
    """Process ids of the step and of the run worker that a trainer belongs to."""
    chain = psutil.Process(trainer).parents()
    guardian = next(i for i, process in enumerate(chain) if any("guardian.py" in word for word in process.cmdline()))
    return chain[guardian + 1].pid, chain[guardian + 2].pid


@pytest.fixture(scope="module")
def house(toy_template, tmp_path_factory):
    from tests.pipelines.conftest import Toy

    root = tmp_path_factory.mktemp("kills") / "toy"
    subprocess.run(["cp", "-a", str(toy_template), str(root)], check=True)
    toy = Toy(root)
    toy.dvc("repro", "-q", "validate")
    with serve(root, free_port()) as server, DagsterInstance.from_config(str(server.home)) as instance:
        house = House(toy, server, instance)
        with house.supervised():
            yield house


def test_a_run_outlives_the_daemon_the_web_server_and_the_code_server(house):
    run, trainer = house.train(250)
    for name in ("daemon", "web", "code"):
        house.kill(name)
        assert psutil.pid_exists(trainer), f"{name} took the trainer with it"
    wait_until(house.answers, 90, "the web server answers again")
    house.check_success(run, 250)
    assert sum("was ended by signal 9" in line for line in house.said) == 3


@pytest.mark.parametrize("which", ["run worker", "step"])
def test_a_killed_master_stops_its_trainer_and_the_next_run_completes(house, which):
    steps = {"run worker": 2001, "step": 2002}[which]
    wait_until(house.answers, 90, "the web server answers")
    run, trainer = house.train(steps)
    step, worker = masters(trainer)
    (house.toy.root / "work/checkpoint").unlink(missing_ok=True)

    os.kill({"run worker": worker, "step": step}[which], signal.SIGKILL)

    wait_until(lambda: not workers(house.toy.root), 60, "the trainer stops")
    assert (house.toy.root / "work/checkpoint").is_file(), "it got no time to save"
    wait_until(lambda: house.status(run) == DagsterRunStatus.FAILURE, 60, f"the run fails; {house.state(run)}")
    assert not (house.toy.root / "models/clip-s0").exists(), "half a model was published"
    wait_until(lambda: not lives(step), 30, "the step ends")
    read_lock(house.toy.root)
    house.toy.set(steps=20, seconds_per_step=0.0)
    house.check_success(launch(house.server.url, MODEL, SUMMARY), 20)


def test_a_run_that_lost_its_worker_and_the_code_server_does_not_stay_started(house):
    wait_until(house.answers, 90, "the web server answers")
    run, trainer = house.train(2003)
    _, worker = masters(trainer)
    assert fail_orphaned_runs(house.instance) == []
    server = [process for process in psutil.Process(worker).parents() if process.pid != os.getpid()]
    code = house.server.processes["code"].pid
    below = next(i for i, process in enumerate(server) if process.pid == code)
    house.keep_alive.clear()
    for process in [*reversed(server[: below + 1]), psutil.Process(worker)]:
        process.kill()
    house.keep_alive.set()

    wait_until(lambda: not workers(house.toy.root), 60, "the trainer stops")
    assert house.status(run) == DagsterRunStatus.STARTED, "somebody else noticed; this test shows nothing"
    assert fail_orphaned_runs(house.instance) == [run]
    assert house.status(run) == DagsterRunStatus.FAILURE
    wait_until(lambda: house.server.processes["code"].pid != code, 30, "the code server runs again")
    house.toy.set(steps=21, seconds_per_step=0.0)
    house.check_success(relaunch(house), 21)


def relaunch(house: House) -> str:
    """Launch a run as soon as the new code server knows the project."""
    until = time.monotonic() + 90
    while True:
        try:
            return launch(house.server.url, MODEL, SUMMARY)
        except (KeyError, TypeError):
            assert time.monotonic() < until, "the code server never came back"
            time.sleep(1)
