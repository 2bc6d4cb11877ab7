"""Whether runs are at work in the project folder; sensors that read or change it wait for them."""

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

EXPERIMENT = "experiment"
"""Name of the job whose runs work in a copy."""
UNFINISHED = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]


def workspace_is_busy(instance: DagsterInstance) -> bool:
    """Say whether any run that has not ended works in the project folder."""
    every = instance.get_runs_count(RunsFilter(statuses=UNFINISHED))
    apart = instance.get_runs_count(RunsFilter(statuses=UNFINISHED, job_name=EXPERIMENT))
    return every > apart
