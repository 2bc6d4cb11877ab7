"""The job ``retrain``, and the schedule that starts it: everything that a champion, or else the leaderboard, needs."""

from collections.abc import Sequence

from dagster import (
    AssetKey,
    AssetsDefinition,
    AssetSelection,
    DagsterInstance,
    DefaultScheduleStatus,
    RunRequest,
    RunsFilter,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    SkipReason,
    define_asset_job,
    schedule,
)
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from pipelines.automation.config import AutomationConfig
from pipelines.busy import UNFINISHED

RETRAIN = "retrain"
STARTED_BY = "clipfoundry/started_by"


def retrain_job(assets: Sequence[AssetsDefinition], champions: Sequence[AssetKey]) -> UnresolvedAssetJobDefinition:
    """Make the job that trains anew.

    Args:
        assets: The assets of the project.
        champions: Those that are champions.

    Returns:
        A job over the champions and all that they are made from; over every asset where there are no champions. A
        stage whose code, parameters and inputs did not change does no work in it.
    """
    if not champions:
        text = "Brings every output up to date with the newest data."
        return define_asset_job(RETRAIN, AssetSelection.assets(*assets), description=text)
    names = ", ".join(key.path[-1] for key in champions)
    text = f"Takes the newest data, trains and scores anew, and lets the result challenge {names}."
    # a stage with several outputs makes all of them, wanted or not
    chosen = AssetSelection.assets(*champions).upstream().required_multi_asset_neighbors()
    return define_asset_job(RETRAIN, chosen, description=text)


def retrain_schedule(config: AutomationConfig, job: UnresolvedAssetJobDefinition) -> ScheduleDefinition:
    """Make the schedule of a job.

    Args:
        config: When.
        job: What :func:`retrain_job` made.

    Returns:
        A schedule that is off until it is switched on in the UI; it starts nothing while a retraining goes on.
    """

    @schedule(
        name="retrain_on_schedule",
        job=job,
        cron_schedule=config.cron,
        execution_timezone=config.time_zone,
        default_status=DefaultScheduleStatus.STOPPED,
        description=f"Trains anew at {config.cron} ({config.time_zone}); without new data or code it only looks.",
    )
    def retrain_on_schedule(context: ScheduleEvaluationContext) -> RunRequest | SkipReason:
        if running := retraining(context.instance):
            return SkipReason(f"the retraining {running[:8]} has not ended")
        return RunRequest(tags={STARTED_BY: "schedule"})

    return retrain_on_schedule


def retraining(instance: DagsterInstance) -> str | None:
    """Return the id of a retraining that has not ended."""
    runs = instance.get_run_records(RunsFilter(job_name=RETRAIN, statuses=UNFINISHED), limit=1)
    return runs[0].dagster_run.run_id if runs else None
