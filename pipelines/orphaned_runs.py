"""Finds runs whose worker process is gone, and says that they failed.

Dagster's code server notices when a worker that it started dies. When it died as well, nobody does: the default
launcher has no health check, run monitoring passes over such a run, and it would show as started for ever.
"""

import json
import socket

import psutil
from dagster import DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.storage.tags import GRPC_INFO_TAG

HOST_TAG = "clipfoundry/host"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_STARTED = "Started process for run"
# the clocks of kernel and Python differ a little
_SECONDS_OF_DOUBT = 2.0


def fail_orphaned_runs(instance: DagsterInstance) -> list[str]:
    """Mark started runs of this machine as failed where the process that executes them no longer exists.

    Runs are judged only if they were launched over loopback or carry our host name as :data:`HOST_TAG`: the process ids
    of another machine or container say nothing here. Runs that are queued, starting or canceling are left to Dagster's
    own run monitoring.

    Args:
        instance: Where Dagster keeps its runs.

    Returns:
        The ids of the runs that were marked now.
    """
    failed: list[str] = []
    for run in instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.STARTED])):
        worker = _worker(instance, run) if _is_of_this_machine(run) else None
        if worker is None or _lives(*worker):
            continue
        # asked again now that the worker is known to be gone: it may just have ended as it should
        current = instance.get_run_by_id(run.run_id)
        if current is None or current.status is not DagsterRunStatus.STARTED:
            continue
        text = f"The process that executed this run (pid {worker[0]}) is gone; re-execute the run to go on from there."
        instance.report_run_failed(current, text)
        failed.append(run.run_id)
    return failed


def _is_of_this_machine(run: DagsterRun) -> bool:
    if run.tags.get(HOST_TAG) == socket.gethostname():
        return True
    launcher = run.tags.get(GRPC_INFO_TAG)
    # with a socket instead of a port the host is the name "localhost" too
    return launcher is not None and json.loads(launcher).get("host") in _LOOPBACK


def _worker(instance: DagsterInstance, run: DagsterRun) -> tuple[int, float] | None:
    """Return process id of a run's newest worker and the moment when it reported itself, None if it never did."""
    events = instance.all_logs(run.run_id, of_type=DagsterEventType.ENGINE_EVENT)
    for entry in reversed(events):
        event = entry.dagster_event
        if event is None or not (event.message or "").startswith(_STARTED):
            continue
        pid = event.engine_event_data.metadata.get("pid")
        if pid is not None and str(pid.value).isdecimal():
            return int(str(pid.value)), entry.timestamp
    return None


def _lives(pid: int, reported: float) -> bool:
    """Say whether a process exists that is as old as the report: process ids are used again."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() < reported + _SECONDS_OF_DOUBT
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
