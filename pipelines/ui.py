"""``python -m pipelines ui``: Dagster's web server and daemon for this project, on this machine only.

Three processes: one code server that loads ``pipelines.definitions`` once, the web server and the daemon, which both
ask it. They stop together.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from assets.atomic import write_text
from assets.errors import ConfigError, StoreError, message
from pipelines.instance import prepare_instance
from pipelines.ui_supervision import supervise

HOST = "127.0.0.1"
_SECONDS_TO_START = 120.0
_SECONDS_TO_STOP = 30.0
# runs start with this interpreter, whether or not its folder is in PATH
_ENTRY = "--use-python-environment-entry-point"


@dataclass(frozen=True, slots=True)
class Server:
    """A running UI."""

    url: str
    home: Path
    processes: dict[str, "subprocess.Popen[bytes]"]
    respawn: dict[str, Callable[[], "subprocess.Popen[bytes]"]] = field(
        default_factory=dict[str, Callable[[], "subprocess.Popen[bytes]"]]
    )
    """Starts a process anew, by its name."""

    def ended(self) -> str | None:
        """Return the name of a process that is no longer there."""
        return next((name for name, process in self.processes.items() if process.poll() is not None), None)


@contextmanager
def serve(root: Path, port: int) -> Generator[Server]:
    """Run the UI while the block runs.

    Args:
        root: A DVC project.
        port: TCP port of the web server.

    Yields:
        The server, once the web page answers.

    Raises:
        ConfigError: The port is taken, or a process ends at once.
    """
    from pipelines.store_server import refuse_taken_port

    if not (root / "dvc.yaml").is_file():
        raise ConfigError(message(f"{root.resolve()} has no dvc.yaml", fix="run inside the repository"))
    try:
        refuse_taken_port(port, "--port")
    except StoreError as error:
        raise ConfigError(str(error)) from error
    home = prepare_instance(root)
    server = Server(f"http://{HOST}:{port}", home, {})
    code_port = _free_port()
    workspace = home / "workspace.yaml"
    location = f"{{host: {HOST}, port: {code_port}, location_name: clipfoundry}}"
    write_text(workspace, f"load_from:\n  - grpc_server: {location}\n")
    commands = {
        "code": ["code-server", "start", "-m", "pipelines.definitions", "-h", HOST, "-p", str(code_port), _ENTRY],
        "web": ["-h", HOST, "-p", str(port), "-w", str(workspace), "--live-data-poll-rate", "2000"],
        "daemon": ["run", "-w", str(workspace)],
    }
    modules = {"code": "dagster", "web": "pipelines.web", "daemon": "dagster._daemon"}
    try:
        for name, arguments in commands.items():
            command = [sys.executable, "-m", modules[name], *arguments]
            server.processes[name] = _spawn(name, command, root, home)
            server.respawn[name] = partial(_spawn, name, command, root, home, again=True)
            if name != "daemon":
                _wait_for(server, name, port if name == "web" else code_port)
        yield server
    finally:
        _stop(server)


def _spawn(name: str, command: list[str], root: Path, home: Path, again: bool = False) -> "subprocess.Popen[bytes]":
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(home),
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        "GX_ANALYTICS_ENABLED": "False",
        "DVC_NO_ANALYTICS": "1",
    }
    with (home / f"{name}.log").open("ab" if again else "wb") as log:
        return subprocess.Popen(
            command,
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _wait_for(server: Server, name: str, port: int) -> None:
    until = time.monotonic() + _SECONDS_TO_START
    while time.monotonic() < until:
        if (ended := server.ended()) is not None:
            raise ConfigError(_ended_text(server, ended))
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.settimeout(1)
            if probe.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.2)
    raise ConfigError(
        message(f"the web server did not answer within {_SECONDS_TO_START:.0f} s", fix=f"see {server.home}")
    )


def _ended_text(server: Server, name: str) -> str:
    log = server.home / f"{name}.log"
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return message(f"the {name} process ended: {lines[-1] if lines else 'it wrote nothing'}", fix=f"see {log}")


def _stop(server: Server) -> None:
    for process in server.processes.values():
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
    until = time.monotonic() + _SECONDS_TO_STOP
    for process in server.processes.values():
        try:
            process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run_ui(root: Path, port: int) -> None:
    """Serve until Ctrl-C; a process that ends by itself is started again.

    Args:
        root: A DVC project.
        port: TCP port of the web server.

    Raises:
        ConfigError: The port is taken, or one of the processes ends again and again.
    """
    with serve(root, port) as server:
        print(f"Dagster is at {server.url} (logs in {server.home}); stop it with Ctrl-C", flush=True)
        try:
            supervise(server, server.respawn)
        except KeyboardInterrupt:
            print("stopping")
