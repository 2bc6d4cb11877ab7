"""Watches the store for delivered batches: takes those that are whole as new data and starts a retraining.

A batch counts when its manifest is there and every shard that the manifest lists, with its size; producers write the
manifest last, so data that is still on its way is never taken (``assets/deliveries``). While any run goes on nothing is
taken: what a run reads stays what it was when it began.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from dagster import (
    DefaultSensorStatus,
    RunRequest,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from pipelines.automation.retraining import STARTED_BY
from pipelines.automation.take import Taken, batches_path, take
from pipelines.busy import workspace_is_busy

_SECONDS = 30


def delivery_sensor(
    root: Path, splits: Sequence[tuple[str, str, str]], job: UnresolvedAssetJobDefinition, seconds: int = _SECONDS
) -> SensorDefinition:
    """Make the sensor of a project.

    Args:
        root: The project.
        splits: Data set, split and prefix in the store's bucket, of every split that takes deliveries.
        job: What to start.
        seconds: Least time between two looks.

    Returns:
        A sensor that is on from the start: a data set that names a prefix asks for it.
    """

    @sensor(
        name="deliveries",
        job=job,
        minimum_interval_seconds=seconds,
        default_status=DefaultSensorStatus.RUNNING,
        description="Takes batches that were delivered whole, and trains anew with them.",
    )
    def deliveries(context: SensorEvaluationContext) -> SensorResult | SkipReason:
        busy = workspace_is_busy(context.instance)
        taken = take(root, splits, taking=not busy)
        for line in taken.lines:
            context.log.info(line)
        version = _version(root, splits)
        if busy:
            waiting = f", {taken.waiting} whole batches wait" if taken.waiting else ""
            return SkipReason(f"a run is in progress{waiting}{_problems(taken)}")
        if not taken.accepted and context.cursor in (None, version):
            return SensorResult(skip_reason=f"nothing new{_problems(taken)}", cursor=version)
        # also after "clipfoundry batches accept" or "reject" by hand
        tags = {STARTED_BY: "deliveries", **{f"batches/{name}": text for name, text in taken.tags().items()}}
        return SensorResult(run_requests=[RunRequest(run_key=f"batches-{version}", tags=tags)], cursor=version)

    return deliveries


def _problems(taken: Taken) -> str:
    return f"; not whole: {', '.join(taken.incomplete)}" if taken.incomplete else ""


def _version(root: Path, splits: Sequence[tuple[str, str, str]]) -> str:
    """Name what the files of accepted batches say."""
    digest = hashlib.sha256()
    for dataset in sorted({dataset for dataset, _, _ in splits}):
        path = batches_path(root, dataset)
        digest.update(f"{dataset}\n".encode() + (path.read_bytes() if path.is_file() else b""))
    return digest.hexdigest()[:16]
