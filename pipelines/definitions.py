"""What Dagster loads: assets, jobs and the sensor of the project in the current folder.

Neither DVC nor PyTorch nor Great Expectations is imported here, so that it loads in about a second.
"""

from pathlib import Path

from dagster import Definitions, multiprocess_executor

from pipelines.dvc_assets import build_assets
from pipelines.dvc_command import DvcCommand
from pipelines.dvc_project import load_project
from pipelines.jobs import build_jobs
from pipelines.sensors import build_sensor


def build_definitions(root: Path) -> Definitions:
    """Make the definitions of a DVC project.

    Args:
        root: The folder that holds dvc.yaml.

    Returns:
        Everything Dagster needs to know.
    """
    project = load_project(root.resolve())
    assets = build_assets(project, DvcCommand(project.root))
    return Definitions(
        assets=assets, jobs=build_jobs(assets), sensors=[build_sensor(project)], executor=multiprocess_executor
    )


defs = build_definitions(Path.cwd())
