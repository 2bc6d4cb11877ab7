import signal
import subprocess

import pytest

from assets.errors import ConfigError
from pipelines.ui import Server
from pipelines.ui_supervision import Endurance, Supervisor


def ending(*command: str) -> "subprocess.Popen[bytes]":
    """A process that has ended."""
    process = subprocess.Popen(command)
    process.wait()
    return process


@pytest.fixture
def steady():
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_a_dead_process_starts_again_after_its_pause_and_the_others_are_left_alone(tmp_path, steady):
    fresh = subprocess.Popen(["sleep", "60"])
    server = Server("http://127.0.0.1:1", tmp_path, {"web": steady, "daemon": ending("true")})
    said: list[str] = []
    supervisor = Supervisor(server, {"daemon": lambda: fresh}, said.append, Endurance(first_pause=10))
    try:
        supervisor.look(100.0)
        supervisor.look(109.0)
        assert server.processes["daemon"] is not fresh
        supervisor.look(110.5)
        supervisor.look(200.0)
    finally:
        fresh.kill()
        fresh.wait()
    assert server.processes == {"web": steady, "daemon": fresh}
    assert [line.split(" (")[0] for line in said] == [
        "the daemon process ended with exit code 0",
        "the daemon process runs again",
    ]


def test_a_killed_process_is_told_by_its_signal(tmp_path):
    process = subprocess.Popen(["sleep", "60"])
    process.send_signal(signal.SIGKILL)
    process.wait()
    said: list[str] = []
    Supervisor(Server("", tmp_path, {"web": process}), {}, said.append).look(0.0)
    assert "was ended by signal 9" in said[0]


def test_pauses_double_and_the_fifth_death_within_a_minute_ends_it_with_the_last_line_of_the_log(tmp_path):
    (tmp_path / "web.log").write_text("starting\nno such file\n")
    server = Server("", tmp_path, {"web": ending("false")})
    said: list[str] = []
    supervisor = Supervisor(server, {"web": lambda: ending("false")}, said.append)
    with pytest.raises(ConfigError, match=r"web process .* 5th time within 60 s: no such file; see .*web\.log"):
        for tenth in range(600):
            supervisor.look(tenth / 10)
    pauses = [line.split(" in ")[1] for line in said if "starts again" in line]
    assert pauses == ["1 s", "2 s", "4 s", "8 s"]


def test_deaths_long_ago_are_forgotten(tmp_path):
    server = Server("", tmp_path, {"web": ending("false")})
    said: list[str] = []
    supervisor = Supervisor(server, {"web": lambda: ending("false")}, said.append)
    for minute in range(20):
        supervisor.look(minute * 61.0)
        supervisor.look(minute * 61.0 + 2)
    assert said.count("the web process runs again") == 20
