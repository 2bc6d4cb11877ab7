"""The sensor that ends runs whose process died, so that their place is free and a re-execution can take over."""

from dagster import DefaultSensorStatus, SensorDefinition, SensorEvaluationContext, SkipReason, sensor

_SECONDS = 30


def lost_runs_sensor(seconds: int = _SECONDS) -> SensorDefinition:
    """Make the sensor.

    Args:
        seconds: Least time between two looks.

    Returns:
        A sensor that is on from the start and starts nothing.
    """

    @sensor(
        name="lost_runs",
        minimum_interval_seconds=seconds,
        default_status=DefaultSensorStatus.RUNNING,
        description="Marks runs as failed whose process is gone; re-execute them to go on from their checkpoints.",
    )
    def lost_runs(context: SensorEvaluationContext) -> SkipReason:
        from pipelines.orphaned_runs import fail_orphaned_runs

        lost = fail_orphaned_runs(context.instance)
        return SkipReason(f"marked as failed: {', '.join(lost)}" if lost else "every run has its process")

    return lost_runs
