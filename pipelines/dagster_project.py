"""Assets, jobs and the sensor of one DVC project, put together for Dagster."""

from pathlib import Path

from dagster import Definitions, multiprocess_executor

from pipelines.dvc_assets import build_assets
from pipelines.dvc_command import DvcCommand
from pipelines.dvc_project import load_project
from pipelines.jobs import build_jobs
from pipelines.sensors import build_sensor
from pipelines.translator import Translator


def build_definitions(root: Path, translator: Translator | None = None) -> Definitions:
    """Make the definitions of a DVC project.

    Args:
        root: The folder that holds dvc.yaml.
        translator: How stages look in Dagster.

    Returns:
        Everything Dagster needs to know.
    """
    project = load_project(root.resolve())
    assets = build_assets(project, DvcCommand(project.root), translator)
    return Definitions(
        assets=assets,
        jobs=build_jobs(assets),
        sensors=[build_sensor(project, translator)],
        executor=multiprocess_executor,
    )
