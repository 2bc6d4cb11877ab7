"""Dagster's history in Postgres, against a real server from the system's package, killed in between."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from dagster import AssetKey, DagsterInstance
from ruamel.yaml import YAML

from assets.errors import ConfigError, StoreError
from pipelines.instance import POSTGRES_VARIABLES, prepare_instance

REPOSITORY = Path(__file__).resolve().parents[2]
HOST, USER, PASSWORD, DATABASE = "127.0.0.1", "clipfoundry", "only-in-the-environment", "dagster"
SECONDS_TO_START = 60.0


def binaries() -> Path | None:
    """The folder of the newest server; Debian keeps it out of PATH."""
    places = [*Path("/usr/lib/postgresql").glob("*/bin"), *(Path(p) for p in os.environ["PATH"].split(os.pathsep))]
    found = [place for place in places if (place / "initdb").is_file() and (place / "postgres").is_file()]
    return max(found, key=lambda place: (len(str(place)), str(place)), default=None)


class Postgres:
    """A server of our own: data, socket and port are used by nobody else."""

    def __init__(self, folder: Path, place: Path) -> None:
        self.folder, self.place = folder, place
        with socket.create_server((HOST, 0)) as probe:
            self.port: int = probe.getsockname()[1]
        # the server refuses to run as root
        self.who = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        if self.who:
            shutil.chown(folder, "postgres", "postgres")
        secret = folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        options = ["-U", USER, "--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8", "--locale=C"]
        self.call("initdb", "-D", str(folder / "data"), *options)
        self.start()
        self.call("createdb", "-h", HOST, "-p", str(self.port), "-U", USER, DATABASE)

    @property
    def environment(self) -> dict[str, str]:
        return dict(zip(POSTGRES_VARIABLES, (HOST, str(self.port), USER, PASSWORD, DATABASE), strict=True))

    def call(self, program: str, *arguments: str) -> None:
        env = {**os.environ, "PGPASSWORD": PASSWORD}
        command = [str(self.place / program), *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder, env=env, **self.who)

    def start(self) -> None:
        settings = {"listen_addresses": HOST, "port": self.port, "unix_socket_directories": self.folder}
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        command = [str(self.place / "postgres"), "-D", str(self.folder / "data"), *options]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, **self.who)
        until = time.monotonic() + SECONDS_TO_START
        ready = [str(self.place / "pg_isready"), "-h", HOST, "-p", str(self.port)]
        while subprocess.run(ready, capture_output=True, check=False).returncode:
            assert self.process.poll() is None and time.monotonic() < until, (self.folder / "log").read_text()
            time.sleep(0.05)

    def kill(self) -> None:
        """What a power cut does."""
        parts = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        for part in parts:
            with suppress(psutil.NoSuchProcess):  # children end by themselves when their master is gone
                part.kill()
        self.process.wait()
        psutil.wait_procs(parts[1:], timeout=10)


@pytest.fixture(scope="module")
def postgres():
    place = binaries()
    if place is None:
        reason = 'no Postgres server here; run "apt-get install postgresql"'
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    # not below pytest's folder, which only we may enter
    with tempfile.TemporaryDirectory(prefix="clipfoundry-pg-") as folder:
        server = Postgres(Path(folder), place)
        yield server
        if server.process.poll() is None:
            server.kill()


@pytest.fixture
def named(postgres, monkeypatch):
    """The environment names the server."""
    for name, value in postgres.environment.items():
        monkeypatch.setenv(name, value)
    return postgres


def materialised(instance: DagsterInstance, key: str) -> set[str]:
    records = instance.fetch_materializations(AssetKey(key.split("/")), limit=100).records
    return {record.run_id for record in records}


@pytest.mark.slow
def test_history_and_pools_survive_a_killed_server(toy, named):
    home = prepare_instance(toy.root, {"gpu": 1, "cpu": 3})
    with DagsterInstance.from_config(str(home)) as instance:
        first = toy.materialize(instance, "data/raw-emoji")
        assert first.success
        named.kill()
        named.start()
        # this instance stayed open over the outage
        second = toy.materialize(instance, "data/raw-emoji")
        assert second.success
    with DagsterInstance.from_config(str(prepare_instance(toy.root, {"gpu": 1, "cpu": 5}))) as again:
        assert {run.run_id for run in again.get_runs()} == {first.run_id, second.run_id}
        assert materialised(again, "data/raw-emoji") == {first.run_id, second.run_id}
        limits = {pool.name: pool.limit for pool in again.event_log_storage.get_pool_limits()}
        assert (limits["gpu"], limits["cpu"]) == (1, 3), "a limit once set is left alone"
    # nothing went to files instead
    assert not list(home.rglob("*.db"))


@pytest.mark.slow
def test_a_pool_of_one_slot_lets_one_step_in_at_a_time(tmp_path, named):
    with DagsterInstance.from_config(str(prepare_instance(tmp_path, {"gpu": 1}))) as instance:
        storage = instance.event_log_storage
        assert storage.claim_concurrency_slot("gpu", "run-a", "pretrain").is_claimed
        assert not storage.claim_concurrency_slot("gpu", "run-b", "pretrain").is_claimed
        storage.free_concurrency_slots_for_run("run-a")
        assert storage.claim_concurrency_slot("gpu", "run-b", "pretrain").is_claimed
        storage.free_concurrency_slots_for_run("run-b")


@pytest.mark.slow
def test_the_password_is_written_nowhere_and_sqlite_keeps_a_folder_of_its_own(tmp_path, named, monkeypatch):
    home = prepare_instance(tmp_path, {"gpu": 1})
    assert home == tmp_path / ".dagster" / "postgres"
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert home / "dagster.yaml" in written
    assert [path for path in written if PASSWORD.encode() in path.read_bytes()] == []
    monkeypatch.delenv("DAGSTER_POSTGRES_HOST")
    assert prepare_instance(tmp_path, {"gpu": 1}) == tmp_path / ".dagster"
    assert "postgres" not in (tmp_path / ".dagster/dagster.yaml").read_text()


def test_a_wrong_password_is_named_without_being_shown(tmp_path, named, monkeypatch):
    monkeypatch.setenv("DAGSTER_POSTGRES_PASSWORD", "tell-nobody")
    with pytest.raises(StoreError, match=rf"Postgres at {HOST}:{named.port} refuses us: .*mend") as caught:
        prepare_instance(tmp_path)
    assert "tell-nobody" not in str(caught.value)
    assert not (tmp_path / ".dagster").exists()


def test_a_server_that_is_not_there_is_an_error_before_any_work(tmp_path, monkeypatch):
    with socket.create_server((HOST, 0)) as probe:
        port = probe.getsockname()[1]
    for name, value in zip(POSTGRES_VARIABLES, (HOST, str(port), USER, PASSWORD, DATABASE), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreError, match="start it, or mend"):
        prepare_instance(tmp_path)
    assert not (tmp_path / ".dagster").exists()


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({"DAGSTER_POSTGRES_PASSWORD": None}, "is set, but not DAGSTER_POSTGRES_PASSWORD;"),
        ({"DAGSTER_POSTGRES_USER": "", "DAGSTER_POSTGRES_DB": None}, "not DAGSTER_POSTGRES_USER, DAGSTER_POSTGRES_DB;"),
        ({"DAGSTER_POSTGRES_PORT": "pg"}, "DAGSTER_POSTGRES_PORT, got 'pg', wanted a TCP port"),
    ],
)
def test_half_given_settings_say_what_is_missing(tmp_path, monkeypatch, changed, wanted):
    for name, value in {**dict.fromkeys(POSTGRES_VARIABLES, "1"), **changed}.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=wanted):
        prepare_instance(tmp_path)


def free_port() -> int:
    with socket.create_server((HOST, 0)) as probe:
        return int(probe.getsockname()[1])


def here(command: list[str], ports: dict[str, int]) -> list[str]:
    """A command of compose.yaml with the ports of this test and the programs of this environment."""
    words = [str(ports.get(word, word)).replace("0.0.0.0", HOST) for word in command]
    return [str(Path(sys.executable).parent / words[0]), *words[1:]]


def wait_until_well(check: list[str], root: Path, env: dict[str, str], process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 240
    while (done := subprocess.run(check, cwd=root, env=env, capture_output=True, text=True, check=False)).returncode:
        assert process.poll() is None and time.monotonic() < until, done.stdout + done.stderr
        time.sleep(1)


@pytest.mark.slow
def test_the_services_of_compose_run_a_queued_job_against_the_database(toy, named):
    """Their commands and health checks as they stand in compose.yaml, as processes of this machine."""
    services = YAML(typ="safe").load((REPOSITORY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    ports = {"4000": free_port()}
    home = prepare_instance(toy.root, {"gpu": 1, "cpu": 1})
    workspace = (REPOSITORY / "deploy/workspace.yaml").read_text(encoding="utf-8")
    (toy.root / "deploy").mkdir()
    (toy.root / "deploy/workspace.yaml").write_text(
        workspace.replace("host: code", f"host: {HOST}").replace("port: 4000", f"port: {ports['4000']}")
    )
    env = {**os.environ, "DAGSTER_HOME": str(home)}
    running: list[subprocess.Popen[bytes]] = []
    try:
        for name in ("code", "daemon"):
            with (toy.root / f"{name}.log").open("wb") as log:
                command = here(services[name]["command"], ports)
                running.append(subprocess.Popen(command, cwd=toy.root, env=env, stdout=log, stderr=log))
            wait_until_well(here(services[name]["healthcheck"]["test"][1:], ports), toy.root, env, running[-1])
        launch = here(["dagster", "job", "launch", "-w", "deploy/workspace.yaml", "-j", "data_only"], ports)
        subprocess.run(launch, cwd=toy.root, env=env, check=True, capture_output=True)
        with DagsterInstance.from_config(str(home)) as instance:
            until = time.monotonic() + 240
            while not (run := instance.get_runs()[0]).is_finished:
                assert time.monotonic() < until, run.status
                time.sleep(0.5)
            assert run.is_success
            assert materialised(instance, "data/valid-emoji") == {run.run_id}
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait(60)
