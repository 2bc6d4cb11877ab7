"""Notices a ``dvc repro`` (or ``dvc checkout``, ``git pull``) that ran outside Dagster.

The sensor compares dvc.lock with what Dagster last recorded and reports every difference as a materialisation without
a run. Materialisations, not observations: Dagster 1.13 leaves children stale for ever after an observation.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dagster import (
    AssetCheckEvaluation,
    AssetKey,
    AssetMaterialization,
    DagsterInstance,
    DefaultSensorStatus,
    MetadataValue,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)

from assets.errors import DataError
from pipelines.busy import workspace_is_busy
from pipelines.checks import as_evaluation, quality_results
from pipelines.dvc_assets import checked_asset, code_versions, stage_specs
from pipelines.dvc_project import DVC_LOCK, LockEntry, Project, StageRecord, read_lock, read_pointer
from pipelines.metadata import describe
from pipelines.translator import Translator

DATA_VERSION_TAG, CODE_VERSION_TAG = "dagster/data_version", "dagster/code_version"
_INPUT_VERSION_TAG, _INPUT_POINTER_TAG = "dagster/input_data_version", "dagster/input_event_pointer"
_OWN_VERSION_TAG = "dagster/data_version_is_user_provided"


def build_sensor(
    project: Project,
    translator: Translator | None = None,
    seconds: int = 30,
    extra: Mapping[AssetKey, Path] | None = None,
) -> SensorDefinition:
    """Make the sensor of a project.

    Args:
        project: Its stages.
        translator: How they look.
        seconds: Least time between two looks.
        extra: Assets that are no outputs of stages -> the ``.dvc`` files that name their versions.

    Returns:
        A sensor that is on from the start.
    """
    chosen, pointers = translator or Translator(), dict(extra or {})

    @sensor(
        name="dvc_lock",
        minimum_interval_seconds=seconds,
        default_status=DefaultSensorStatus.RUNNING,
        description="Reports what a dvc repro outside Dagster changed, as materialisations without a run.",
    )
    def dvc_lock(context: SensorEvaluationContext) -> SensorResult | SkipReason:
        if not (project.root / DVC_LOCK).is_file():
            return SkipReason("dvc.lock does not exist yet")
        digest = _digest(project.root / file for file in (DVC_LOCK, *pointers.values()))
        if context.cursor == digest:
            return SkipReason("dvc.lock did not change")
        if workspace_is_busy(context.instance):
            # a run of our own changes dvc.lock before it reports; looking now would count its work twice
            return SkipReason("a run is in progress, dvc.lock is read when it has ended")
        events = outside_changes(project, chosen, context.instance)
        events += pointer_changes(project.root, pointers, context.instance)
        return SensorResult(asset_events=events, cursor=digest)

    return dvc_lock


def outside_changes(
    project: Project, translator: Translator, instance: DagsterInstance
) -> list[AssetMaterialization | AssetCheckEvaluation]:
    """Compare dvc.lock with the latest materialisations.

    Args:
        project: The stages.
        translator: How they look.
        instance: Where Dagster keeps its events.

    Returns:
        A materialisation for every output with another version, and its checks.
    """
    lock = read_lock(project.root)
    versions = {path: version.md5 for entry in lock.values() for path, version in entry.outs.items()}
    codes = code_versions(project)
    events: list[AssetMaterialization | AssetCheckEvaluation] = []
    for address, stage in project.stages.items():
        entry = lock.get(address)
        if entry is None or translator.hidden(stage):
            continue
        for out, spec in stage_specs(project, stage, translator, codes):
            version = entry.outs.get(out.path)
            if version is None or not (project.root / out.path).exists():
                continue
            if version.md5 == recorded_version(instance, spec.key):
                continue
            tags = {
                DATA_VERSION_TAG: version.md5,
                _OWN_VERSION_TAG: "true",
                **_input_tags(project, stage, translator, versions),
            }
            code = spec.code_version
            if code is not None and _made_with(project, translator.stamp_file(stage), entry, code):
                # without it Dagster disregards the input versions, and an input that is remade makes the asset stale
                tags[CODE_VERSION_TAG] = code
            metadata: Mapping[str, Any] = describe(project.root, stage, out, version)
            events.append(
                AssetMaterialization(
                    spec.key, description="dvc repro outside Dagster", metadata=metadata, tags={**tags}
                )
            )
            events += _checks(project, stage, translator, out.path, spec.key)
    return events


def pointer_changes(
    root: Path, pointers: Mapping[AssetKey, Path], instance: DagsterInstance
) -> list[AssetMaterialization | AssetCheckEvaluation]:
    """Compare ``.dvc`` files with the latest materialisations of the assets that they stand for.

    Args:
        root: The project.
        pointers: Asset -> file, relative to the project; one that is absent says nothing.
        instance: Where Dagster keeps its events.

    Returns:
        A materialisation for every asset with another version.
    """
    events: list[AssetMaterialization | AssetCheckEvaluation] = []
    for key, file in pointers.items():
        version = read_pointer(root / file)
        if version is None or version.md5 == recorded_version(instance, key):
            continue
        metadata: dict[str, Any] = {"dvc_hash": version.md5, "pointer": MetadataValue.path(str(root / file))}
        counts = {"bytes": version.size, "files": version.num_files}
        metadata |= {name: count for name, count in counts.items() if count is not None}
        tags = {DATA_VERSION_TAG: version.md5, _OWN_VERSION_TAG: "true"}
        events.append(AssetMaterialization(key, description="changed outside Dagster", metadata=metadata, tags=tags))
    return events


def _digest(files: Iterable[Path]) -> str:
    """Name the contents of files that may be absent."""
    contents = [file.read_bytes() if file.is_file() else b"" for file in files]
    return hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in contents)).hexdigest()


def recorded_version(instance: DagsterInstance, key: AssetKey) -> str | None:
    """Return the data version of an asset's latest materialisation."""
    event = instance.get_latest_materialization_event(key)
    if event is None or event.asset_materialization is None:
        return None
    return (event.asset_materialization.tags or {}).get(DATA_VERSION_TAG)


def _input_tags(
    project: Project, stage: StageRecord, translator: Translator, versions: Mapping[str, str]
) -> dict[str, str]:
    """Name the versions of the inputs, so that Dagster sees the asset as fresh against them."""
    tags: dict[str, str] = {}
    for path, key in translator.upstream(stage, project):
        if path in versions:
            tags[f"{_INPUT_VERSION_TAG}/{key.to_user_string()}"] = versions[path]
            # Dagster disregards an input without a pointer to the event that made it; here there need not be one
            tags[f"{_INPUT_POINTER_TAG}/{key.to_user_string()}"] = "NULL"
    return tags


def _made_with(project: Project, stamp: str | None, entry: LockEntry, code: str) -> bool:
    """Return whether dvc.lock says that a stage last ran with this code: its stamp then is the stamp now."""
    if stamp is None or stamp not in entry.deps or not (project.root / stamp).is_file():
        return False
    content = (project.root / stamp).read_bytes()
    same = hashlib.md5(content, usedforsecurity=False).hexdigest() == entry.deps[stamp].md5
    return same and json.loads(content)["code"] == code


def _checks(
    project: Project, stage: StageRecord, translator: Translator, path: str, key: AssetKey
) -> list[AssetCheckEvaluation]:
    file = translator.checks_file(stage)
    if file is None or checked_asset(stage, file, translator).path != path:
        return []
    try:
        results = quality_results(project.root / file, key, translator.check_pair(stage))
        return [as_evaluation(result) for result in results]
    except DataError:
        # the materialisation is still true; the next run of the stage writes the file anew
        return []
