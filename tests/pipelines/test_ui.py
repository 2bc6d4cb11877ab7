import json
import socket
import time
import urllib.request
from collections.abc import Callable

import psutil
import pytest
from dagster import AssetKey, DagsterInstance, DagsterRunStatus

from assets.errors import ConfigError
from pipelines.dvc_project import read_lock
from pipelines.instance import prepare_instance
from pipelines.sensors import recorded_version
from pipelines.ui import run_ui, serve

LAUNCH = """
mutation($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  }
}"""
TERMINATE = 'mutation { terminateRun(runId: "%s") { __typename } }'


def ask(url: str, query: str, **variables):
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"{url}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())["data"]


def launch(url: str, *keys: list[str]) -> str:
    selector = {
        "repositoryLocationName": "clipfoundry",
        "repositoryName": "__repository__",
        "jobName": "__ASSET_JOB",
        "assetSelection": [{"path": key} for key in keys],
    }
    found = ask(url, LAUNCH, params={"selector": selector, "mode": "default"})["launchPipelineExecution"]
    return found["run"]["runId"]


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited {seconds} s in vain: {what}"
        time.sleep(0.5)


@pytest.mark.slow
def test_a_run_canceled_in_the_ui_saves_a_checkpoint_and_leaves_nothing_running(toy):
    toy.set(steps=6000, seconds_per_step=0.1)
    toy.dvc("repro", "-q", "validate")
    with serve(toy.root, free_port()) as server, DagsterInstance.from_config(str(server.home)) as instance:
        run = launch(server.url, ["models", "clip-s0"], ["runs", "clip-s0-summary.json"])
        pid = toy.root / "work/trainer.pid"
        wait_until(lambda: pid.is_file() and pid.read_text(), 180, "the trainer starts")
        wait_until(lambda: "progress/pretrain__clip_s0" in instance.get_run_by_id(run).tags, 60, "progress on the run")

        ask(server.url, TERMINATE % run)

        wait_until(lambda: not psutil.pid_exists(int(pid.read_text())), 60, "the trainer stops")
        wait_until(lambda: instance.get_run_by_id(run).is_finished, 60, "the run ends")
        assert instance.get_run_by_id(run).status == DagsterRunStatus.CANCELED
    assert (toy.root / "work/checkpoint").is_file()


@pytest.mark.slow
def test_a_repro_by_hand_shows_up_within_a_minute(toy):
    toy.dvc("repro", "-q", "ingest")
    with serve(toy.root, free_port()) as server, DagsterInstance.from_config(str(server.home)) as instance:
        key = AssetKey(["data", "raw-emoji"])
        wait_until(lambda: recorded_version(instance, key), 120, "the first look of the sensor")
        toy.set(samples=7)
        toy.dvc("repro", "-q", "ingest")
        started = time.monotonic()
        wanted = read_lock(toy.root)["ingest@emoji"].outs["data/raw/emoji"].md5
        wait_until(lambda: recorded_version(instance, key) == wanted, 60, "the sensor reports the new version")
        print(f"seen after {time.monotonic() - started:.0f} s")


def test_a_taken_port_is_named_before_anything_starts(toy):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port} on 127.0.0.1 is taken.*--port"):
            run_ui(toy.root, port)
    assert not (toy.root / ".dagster").exists()


def test_a_folder_without_a_pipeline_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"has no dvc\.yaml"):
        run_ui(tmp_path, 3000)


@pytest.mark.slow
def test_the_instance_keeps_limits_that_were_changed_by_hand(tmp_path):
    home = prepare_instance(tmp_path, {"gpu": 1, "cpu": 2})
    with DagsterInstance.from_config(str(home)) as instance:
        instance.event_log_storage.set_concurrency_slots("gpu", 4)
    prepare_instance(tmp_path, {"gpu": 1, "cpu": 2})
    with DagsterInstance.from_config(str(home)) as instance:
        limits = {pool.name: pool.limit for pool in instance.event_log_storage.get_pool_limits()}
        assert limits == {"gpu": 4, "cpu": 2}
        assert not instance.telemetry_enabled
        assert instance.run_monitoring_enabled


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
