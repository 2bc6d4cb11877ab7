"""Assets, jobs, schedules and sensors of one DVC project, put together for Dagster."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dagster import (
    AssetsDefinition,
    AssetSelection,
    AutomationConditionSensorDefinition,
    DefaultSensorStatus,
    Definitions,
    multiprocess_executor,
)

from assets.section import parse
from pipelines.automation.champion_asset import champion_asset
from pipelines.automation.config import AutomationConfig
from pipelines.automation.delivery_sensor import delivery_sensor
from pipelines.automation.lost_runs import lost_runs_sensor
from pipelines.automation.retraining import retrain_job, retrain_schedule
from pipelines.dvc_assets import dvc_assets
from pipelines.dvc_project import PARAMS, Project, load_project
from pipelines.experiments import experiment_job
from pipelines.jobs import build_jobs
from pipelines.kubernetes import choose_command
from pipelines.sensors import build_sensor
from pipelines.translator import Translator

_CHALLENGE = "challenge"


def build_definitions(root: Path, translator: Translator | None = None) -> Definitions:
    """Make the definitions of a DVC project.

    Args:
        root: The folder that holds dvc.yaml.
        translator: How stages look in Dagster.

    Returns:
        Everything Dagster needs to know. Stages of any DVC project become assets; the rest depends on sections of
        params.yaml that a project may lack: ``promotions``, ``automation`` and data sets that take deliveries.

    Raises:
        ConfigError: dvc.yaml or one of these sections is wrong.
    """
    project = load_project(root.resolve())
    command = choose_command(project.root)
    translator = translator or Translator()
    params = project.params
    champions = _champions(project, params, translator)
    assets = [*dvc_assets(project, translator, command), *champions.values()]
    retrain = retrain_job(assets, [definition.key for definition in champions.values()])
    pointers = {definition.key: Path("models") / f"{name}.dvc" for name, definition in champions.items()}
    sensors = [build_sensor(project, translator, extra=pointers), lost_runs_sensor(), *_cheap_stages(assets)]
    if waiting := _delivery_splits(params):
        sensors.append(delivery_sensor(project.root, waiting, retrain))
    schedules = []
    if "automation" in params:
        config = parse(AutomationConfig, params["automation"], f"{project.root / PARAMS}: automation")
        schedules.append(retrain_schedule(config, retrain))
    return Definitions(
        assets=assets,
        jobs=[*build_jobs(assets), retrain, experiment_job(project, command)],
        schedules=schedules,
        sensors=sensors,
        executor=multiprocess_executor,
    )


def _champions(project: Project, params: Mapping[str, Any], translator: Translator) -> dict[str, AssetsDefinition]:
    """Make the asset of every promotion whose decision is a stage of the project."""
    days = (params.get("automation") or {}).get("fresh_days")
    found: dict[str, AssetsDefinition] = {}
    for name, values in (params.get("promotions") or {}).items():
        stage = project.stages.get(f"{_CHALLENGE}@{name}")
        if stage is not None:
            decision = translator.asset_key(translator.asset_outs(stage)[0])
            found[str(name)] = champion_asset(project.root, str(name), values, decision, days)
    return found


def _delivery_splits(params: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    from assets.deliveries.splits import delivery_splits

    return delivery_splits(params.get("datasets") or {})


def _cheap_stages(assets: list[AssetsDefinition]) -> list[AutomationConditionSensorDefinition]:
    """Make the sensor that runs stages marked ``automatic``, where there are any."""
    if not any(spec.automation_condition for definition in assets for spec in definition.specs):
        return []
    return [
        AutomationConditionSensorDefinition(
            "cheap_stages",
            target=AssetSelection.assets(*assets),
            default_status=DefaultSensorStatus.STOPPED,
            minimum_interval_seconds=30,
            description="Runs the cheap stages (marked automatic in dvc.yaml) when what they read has changed.",
        )
    ]
