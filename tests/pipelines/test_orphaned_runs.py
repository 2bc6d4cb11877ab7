import json
import os
import socket
import subprocess
import time

import psutil
import pytest
from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.events import EngineEventData
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._core.test_utils import create_run_for_test

from pipelines.orphaned_runs import HOST_TAG, fail_orphaned_runs

HERE = {GRPC_INFO_TAG: json.dumps({"host": "127.0.0.1", "port": 4000})}


def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def run_of(instance: DagsterInstance, pid: int, tags: dict[str, str], status=DagsterRunStatus.STARTED) -> str:
    run = create_run_for_test(instance, "job", status=status, tags=tags)
    instance.report_engine_event(f"Started process for run (pid: {pid}).", run, EngineEventData.in_process(pid))
    return run.run_id


@pytest.fixture
def memory():
    with DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.mark.parametrize("tags", [HERE, {HOST_TAG: socket.gethostname()}])
def test_a_started_run_whose_worker_is_gone_fails_and_says_so(memory, tags):
    run = run_of(memory, dead_pid(), tags)

    assert fail_orphaned_runs(memory) == [run]

    assert memory.get_run_by_id(run).status == DagsterRunStatus.FAILURE
    assert any("is gone; re-execute" in entry.message for entry in memory.all_logs(run))
    assert fail_orphaned_runs(memory) == []


def test_a_run_whose_worker_lives_goes_on(memory):
    run = run_of(memory, os.getpid(), HERE)
    assert fail_orphaned_runs(memory) == []
    assert memory.get_run_by_id(run).status == DagsterRunStatus.STARTED


def test_a_process_id_that_was_used_again_is_not_taken_for_the_worker(memory, monkeypatch):
    run = run_of(memory, os.getpid(), HERE)
    born_after_the_report = time.time() + 60
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: born_after_the_report)
    assert fail_orphaned_runs(memory) == [run]


@pytest.mark.parametrize(
    "tags", [{}, {HOST_TAG: "another-machine"}, {GRPC_INFO_TAG: json.dumps({"host": "worker", "port": 4000})}]
)
def test_a_run_of_another_machine_is_left_alone(memory, tags):
    run_of(memory, dead_pid(), tags)
    assert fail_orphaned_runs(memory) == []


@pytest.mark.parametrize("status", [DagsterRunStatus.CANCELING, DagsterRunStatus.SUCCESS, DagsterRunStatus.CANCELED])
def test_only_started_runs_are_judged(memory, status):
    run_of(memory, dead_pid(), HERE, status)
    assert fail_orphaned_runs(memory) == []


def test_a_worker_that_never_reported_is_left_to_the_start_timeout(memory):
    create_run_for_test(memory, "job", status=DagsterRunStatus.STARTED, tags=HERE)
    assert fail_orphaned_runs(memory) == []
