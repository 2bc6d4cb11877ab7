"""Start, stop and look at the object store that runs on this machine: SeaweedFS from PyPI, or MinIO built by Go.

Both listen on loopback only, keep their data under ``.store/`` and outlive the command that started them.
"""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from assets.atomic import write_json
from assets.errors import StoreError, message
from assets.store import STORE_FOLDER, Credentials, Store, StoreConfig, has_credentials, make_credentials, write_private

_HOST = "127.0.0.1"
_SECONDS_TO_START = 60.0
_SECONDS_TO_STOP = 20.0
_KEPT_VARIABLES = ("PATH", "HOME", "TMPDIR", "LANG")


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """What is known about the embedded server."""

    server: str
    endpoint: str
    pid: int | None
    log: Path

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self.pid is not None


@dataclass(frozen=True, slots=True)
class _Launch:
    """A command line with the environment that holds its keys."""

    command: list[str]
    environment: dict[str, str]


def start(config: StoreConfig, root: Path = Path()) -> ServerStatus:
    """Start the embedded server unless it runs, wait until it answers, and make sure that our bucket exists.

    Args:
        config: The section ``store``; for an external server only bucket and keys are checked.
        root: The repository; data, keys, pid file and log go to ``.store`` below it.

    Returns:
        The running server.

    Raises:
        StoreError: The port is taken, the program is missing, or the server does not come up.
    """
    folder = (root / STORE_FOLDER).resolve()
    if not config.embedded:
        raise StoreError(message("store.server is external", fix="start that server where it lives; we cannot"))
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder):
        running = status(config, root)
        moved = running.endpoint != config.endpoint
        if running.running and (moved or not has_credentials(config, folder)):
            _terminate(config, folder)
            running = status(config, root)
        credentials = make_credentials(config, folder)
        if not running.running:
            refuse_taken_port(config.port, "store.endpoint")
            _spawn(config, folder, credentials)
        try:
            _wait_until_healthy(config, folder, Store(config, credentials))
        except StoreError:
            if not running.running:
                _terminate(config, folder)
            raise
    return status(config, root)


def stop(config: StoreConfig, root: Path = Path()) -> bool:
    """Stop the embedded server; its data stay.

    Args:
        config: The section ``store``.
        root: The repository.

    Returns:
        Whether one was running.
    """
    folder = (root / STORE_FOLDER).resolve()
    if not config.embedded or not folder.is_dir():
        return False
    with _lock(folder):
        return _terminate(config, folder)


def status(config: StoreConfig, root: Path = Path()) -> ServerStatus:
    """Look whether the embedded server of this repository runs, and where."""
    folder = (root / STORE_FOLDER).resolve()
    process = _process(config, folder)
    endpoint = config.endpoint
    if process is not None:
        endpoint = json.loads(_pid_file(config, folder).read_text(encoding="utf-8"))["endpoint"]
    return ServerStatus(config.server, endpoint, process.pid if process else None, _log_file(config, folder))


def refuse_taken_port(port: int, setting: str) -> None:
    """Raise when something listens on a loopback port already, naming it where the system tells.

    Args:
        port: The TCP port.
        setting: The key of params.yaml that chooses it, for the message.

    Raises:
        StoreError: It is taken.
    """
    if port_is_free(port):
        return
    holder = port_holder(port)
    by = f" by {holder}" if holder else ""
    raise StoreError(
        message(f"port {port} on {_HOST} is taken{by}", fix=f"stop that program, or set another port in {setting}")
    )


def port_is_free(port: int) -> bool:
    """Say whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
    return True


def port_holder(port: int) -> str | None:
    """Name the program that listens on a port, or None when the system does not tell."""
    try:
        for connection in psutil.net_connections("tcp"):
            if (
                connection.status == psutil.CONN_LISTEN
                and getattr(connection.laddr, "port", 0) == port
                and connection.pid
            ):
                process = psutil.Process(connection.pid)
                return f"{process.name()} (pid {process.pid})"
    except psutil.Error:
        return None
    return None


@contextmanager
def _lock(folder: Path) -> Generator[None]:
    """Let one command at a time start or stop servers of this repository."""
    with (folder / "lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _pid_file(config: StoreConfig, folder: Path) -> Path:
    return folder / f"{config.server}.pid.json"


def _log_file(config: StoreConfig, folder: Path) -> Path:
    return folder / f"{config.server}.log"


def _process(config: StoreConfig, folder: Path) -> psutil.Process | None:
    """Return the live server process of this folder; a pid that another program got meanwhile does not count."""
    try:
        record = json.loads(_pid_file(config, folder).read_text(encoding="utf-8"))
        process = psutil.Process(record["pid"])
        ours = any(str(folder / config.server) in part for part in process.cmdline())
        return process if ours and process.status() != psutil.STATUS_ZOMBIE else None
    except (FileNotFoundError, json.JSONDecodeError, KeyError, psutil.Error):
        return None


def _spawn(config: StoreConfig, folder: Path, credentials: Credentials) -> None:
    data = folder / config.server
    data.mkdir(exist_ok=True)
    launch = _LAUNCHERS[config.server](config, folder, credentials)
    with _log_file(config, folder).open("ab") as log:
        process = subprocess.Popen(
            launch.command,
            env={key: os.environ[key] for key in _KEPT_VARIABLES if key in os.environ} | launch.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    write_json(_pid_file(config, folder), {"pid": process.pid, "endpoint": config.endpoint})


def _seaweedfs(config: StoreConfig, folder: Path, credentials: Credentials) -> _Launch:
    program = Path(sysconfig.get_path("scripts")) / "weed"
    if not program.is_file():
        raise StoreError(message(f"{program} is missing", fix='install it with "make setup"'))
    keys = {"accessKey": credentials.access_key, "secretKey": credentials.secret_key}
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identities = {"identities": [{"name": "clipfoundry", "credentials": [keys], "actions": actions}]}
    write_private(folder / "seaweedfs.keys.json", json.dumps(identities))
    services = (
        "s3.port.grpc",
        "master.port",
        "master.port.grpc",
        "volume.port",
        "volume.port.grpc",
        "filer.port",
        "filer.port.grpc",
        "admin.port",
        "admin.port.grpc",
        "metricsPort",
    )
    ports = zip(services, _free_ports(config.port + 1, len(services)), strict=True)
    return _Launch(
        [
            str(program),
            "-logtostderr=true",
            "mini",
            f"-dir={folder / config.server}",
            f"-ip={_HOST}",
            f"-ip.bind={_HOST}",
            f"-s3.port={config.port}",
            *(f"-{service}={port}" for service, port in ports),
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-webdav=false",
            "-admin.ui=false",
            "-master.telemetry=false",
            "-s3.autoCreateBucket=false",
            f"-s3.config={folder / 'seaweedfs.keys.json'}",
        ],
        {},
    )


def _minio(config: StoreConfig, folder: Path, credentials: Credentials) -> _Launch:
    program = folder.parent / ".bin" / "minio"
    if not program.is_file():
        raise StoreError(
            message(
                f"{program} is missing", fix='build it with "make minio" (needs Go 1.24 or newer), or set store.server'
            )
        )
    return _Launch(
        [
            str(program),
            "server",
            f"--address={_HOST}:{config.port}",
            f"--certs-dir={folder / 'minio-certs'}",
            str(folder / config.server),
        ],
        {
            "MINIO_ROOT_USER": credentials.access_key,
            "MINIO_ROOT_PASSWORD": credentials.secret_key,
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
        },
    )


_LAUNCHERS = {"seaweedfs": _seaweedfs, "minio": _minio}


def _free_ports(first: int, count: int) -> list[int]:
    """Return the first free ports from ``first`` on, so that the same machine state gives the same ports."""
    found: list[int] = []
    port = first
    while len(found) < count:
        if port > 65535:
            raise StoreError(message("no free ports left above store.endpoint's", fix="choose a lower port"))
        if port_is_free(port):
            found.append(port)
        port += 1
    return found


def _wait_until_healthy(config: StoreConfig, folder: Path, store: Store) -> None:
    log = _log_file(config, folder)
    give_up = time.monotonic() + _SECONDS_TO_START
    while True:
        if _process(config, folder) is None:
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            last = lines[-1] if lines else "its log is empty"
            raise StoreError(message(f"{config.server} stopped right after its start: {last}", fix=f"see {log}"))
        if not port_is_free(config.port):
            try:
                store.ensure_bucket()
                store.read_something()
                return
            except StoreError:
                if time.monotonic() > give_up:
                    raise
        elif time.monotonic() > give_up:
            raise StoreError(
                message(f"{config.server} does not listen after {_SECONDS_TO_START:.0f} s", fix=f"see {log}")
            )
        time.sleep(0.2)


def _terminate(config: StoreConfig, folder: Path) -> bool:
    process = _process(config, folder)
    if process is not None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_SECONDS_TO_STOP)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(_SECONDS_TO_STOP)
    _pid_file(config, folder).unlink(missing_ok=True)
    return process is not None
