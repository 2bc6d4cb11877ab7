"""The guardian and its group, for real: small programs, killed masters."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipelines.process_group import Patience, ProcessGroup

MASTER = """
import os, sys, time
from pathlib import Path
from pipelines.process_group import Patience, ProcessGroup
group = ProcessGroup([sys.executable, "-u", "worker.py"], Path.cwd(), os.environ, lambda line: None, Patience(20, 1))
Path("group").write_text(str(group.pid))
if len(sys.argv) > 1:
    os.fork()
group.wait()
"""
SAVES = """
import sys, time, pathlib
try:
    while True:
        print("step " * 1000)
        time.sleep(0.01)
except KeyboardInterrupt:
    for _ in range(100):
        print("saving " * 1000)
    pathlib.Path("saved").write_text("all")
"""
STUBBORN = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(60)"
STUBBORN_TOO = STUBBORN.replace("time.sleep", "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep")


def group_of(code: str, folder: Path, lines: list[str] | None = None) -> ProcessGroup:
    command = [sys.executable, "-c", code]
    return ProcessGroup(command, folder, os.environ, ([] if lines is None else lines).append, Patience(5, 1))


def members(group: int) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def wait_until_gone(group: int, seconds: float) -> None:
    until = time.monotonic() + seconds
    while left := members(group):
        assert time.monotonic() < until, f"still running: {left}"
        time.sleep(0.1)


def master(folder: Path, worker: str, *arguments: str) -> tuple["subprocess.Popen[bytes]", int]:
    """Start a master of a worker in a process of its own; return it and the worker's group."""
    (folder / "worker.py").write_text(worker)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    process = subprocess.Popen([sys.executable, "-c", MASTER, *arguments], cwd=folder, env=environment)
    mark = folder / "group"
    until = time.monotonic() + 30
    while not mark.is_file() or not mark.read_text() or len(members(int(mark.read_text()))) < 2:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    time.sleep(0.5)
    return process, int(mark.read_text())


def test_output_and_exit_code_come_through(tmp_path):
    lines: list[str] = []
    assert group_of("import os; print(os.getcwd()); raise SystemExit(7)", tmp_path, lines).wait() == 7
    assert lines == [f"{tmp_path}\n"]


def test_a_command_that_a_signal_ended_counts_as_in_a_shell(tmp_path):
    assert group_of("import os; os.kill(os.getpid(), 15)", tmp_path).wait() == 128 + 15


def test_a_command_that_is_not_there_is_named(tmp_path):
    lines: list[str] = []
    group = ProcessGroup(["/no/such/program"], tmp_path, os.environ, lines.append)
    assert group.wait() == 127
    assert "/no/such/program cannot be started" in lines[0]


def test_the_command_inherits_no_ignored_signal_and_no_descriptor(tmp_path):
    lines: list[str] = []
    code = (
        "import os, signal\n"
        "print(signal.getsignal(signal.SIGINT) is signal.default_int_handler,"
        " signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, sorted(map(int, os.listdir('/proc/self/fd')))[:-1])"
    )
    group_of(code, tmp_path, lines).wait()
    assert lines == ["True True [0, 1, 2]\n"]


def test_it_costs_little(tmp_path):
    started = time.monotonic()
    for _ in range(5):
        ProcessGroup(["true"], tmp_path, os.environ, lambda line: None).wait()
    assert (time.monotonic() - started) / 5 < 1.0


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [(), ("fork",)], ids=["pipe", "pipe held open by a fork"])
def test_a_killed_master_lets_the_worker_save_its_work_though_nobody_reads_its_output(tmp_path, arguments):
    process, group = master(tmp_path, SAVES, *arguments)
    process.kill()
    process.wait()
    wait_until_gone(group, 15)
    assert (tmp_path / "saved").read_text() == "all"


@pytest.mark.slow
@pytest.mark.parametrize("worker", [STUBBORN.replace("60", "61"), STUBBORN_TOO.replace("60", "62")])
def test_a_worker_that_does_not_listen_is_ended_all_the_same(tmp_path, worker):
    (tmp_path / "worker.py").write_text(worker)
    life, ours = os.pipe()
    output, written = os.pipe()
    guardian = Path(__file__).resolve().parents[2] / "pipelines/guardian.py"
    numbers = [str(life), str(output), str(os.getpid()), "0.5", "0.5"]
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", guardian, *numbers, sys.executable, "worker.py"],
        cwd=tmp_path,
        stdout=written,
        start_new_session=True,
        pass_fds=(life, output),
    )
    time.sleep(1)
    assert len(members(process.pid)) == 2
    os.close(ours)
    process.wait(10)
    wait_until_gone(process.pid, 5)
    for descriptor in (life, output, written):
        os.close(descriptor)


@pytest.mark.slow
def test_a_killed_guardian_leaves_nothing_behind(tmp_path):
    group = group_of(SAVES, tmp_path)
    time.sleep(1)
    os.kill(group.pid, signal.SIGKILL)
    assert group.wait() == 128 + 9
    assert members(group.pid) == []
    assert (tmp_path / "saved").is_file()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_descriptors_are_given_back(tmp_path):
    before = descriptors()
    for _ in range(3):
        group_of("print('x')", tmp_path).wait()
    assert descriptors() == before
