"""Dagster assets made from DVC stages: one asset per output, one op per stage.

Materialising an asset runs its stage through ``dvc repro --single-item``. The data version that Dagster keeps is the
hash in dvc.lock, so "stale" means the same in the UI and in ``dvc status``.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from dagster import (
    AssetCheckResult,
    AssetExecutionContext,
    AssetsDefinition,
    AssetSpec,
    Config,
    DataVersion,
    Failure,
    MaterializeResult,
    MetadataValue,
    multi_asset,
)
from pydantic import Field

from assets.errors import ConfigError, DataError, message
from pipelines.checks import blocks, quality_results, quality_specs
from pipelines.dvc_command import DvcCommand, Outcome
from pipelines.dvc_project import PARAMS, Out, Project, StageRecord, read_lock
from pipelines.live import LiveFacts
from pipelines.metadata import describe, facts
from pipelines.push import Pushed, push, pushed_result, pushed_spec
from pipelines.run_tags import tag_run
from pipelines.stamp_cache import remembered_versions
from pipelines.stamps import compute_stamps, stamp_version
from pipelines.translator import Translator

Event: TypeAlias = MaterializeResult[Any] | AssetCheckResult


class StageRun(Config):
    """What can be chosen when a stage is run from the UI."""

    force: bool = Field(default=False, description="Run the stage even if none of its inputs changed.")
    push: bool = Field(default=True, description="Copy the outputs to the object store afterwards.")


def dvc_assets(
    project: Project, translator: Translator | None = None, command: DvcCommand | None = None
) -> list[AssetsDefinition]:
    """Make the assets of a project.

    Args:
        project: Its stages.
        translator: How they look.
        command: How stages are run; DVC in the project's folder when None.

    Returns:
        One definition per stage that is not hidden.

    Raises:
        ConfigError: Two stages would have one name in Dagster.
    """
    translator = translator or Translator()
    command = command or DvcCommand(project.root)
    translator.check_names(project)
    codes = code_versions(project)
    return [
        _stage_assets(project, stage, command, translator, codes)
        for stage in project.stages.values()
        if not translator.hidden(stage)
    ]


def code_versions(project: Project) -> dict[str, str]:
    """Return stamp file -> version of code and baseline as they are now, not as they were when it was written."""

    def compute() -> dict[str, str]:
        stamps = compute_stamps(project.root / PARAMS)
        return {f"stamps/{name}.json": stamp_version(stamp) for name, stamp in stamps.items()}

    try:
        return remembered_versions(project.root, compute)
    except ConfigError:
        # a project without our sections; its stages have no code version
        return {}


def stage_specs(
    project: Project, stage: StageRecord, translator: Translator, codes: dict[str, str]
) -> list[tuple[Out, AssetSpec]]:
    """Return every asset output of a stage with its spec."""
    deps = translator.upstream_keys(stage, project)
    return [
        (
            out,
            AssetSpec(
                translator.asset_key(out),
                deps=deps,
                description=stage.desc or None,
                group_name=translator.group(stage),
                kinds=translator.kinds(stage),
                owners=translator.owners(stage),
                tags=translator.tags(stage),
                freshness_policy=translator.freshness(stage),
                automation_condition=translator.automation(stage),
                code_version=codes.get(translator.stamp_file(stage) or ""),
                metadata={
                    "dvc_stage": MetadataValue.text(stage.address),
                    "command": MetadataValue.text(" && ".join(stage.cmd)),
                    "params": MetadataValue.json(list(stage.params)),
                },
            ),
        )
        for out in translator.asset_outs(stage)
    ]


def _stage_assets(
    project: Project, stage: StageRecord, command: DvcCommand, translator: Translator, codes: dict[str, str]
) -> AssetsDefinition:
    pairs = stage_specs(project, stage, translator, codes)
    op_name = translator.op_name(stage)
    checks_file = translator.checks_file(stage)
    checked = checked_asset(stage, checks_file, translator) if checks_file else None
    names = translator.check_pair(stage)
    check_specs = [pushed_spec(spec.key) for out, spec in pairs if out.cached]
    if checked is not None:
        check_specs += quality_specs(translator.asset_key(checked), names)

    @multi_asset(
        name=op_name,
        specs=[spec for _, spec in pairs],
        check_specs=check_specs,
        pool=translator.pool(stage),
        op_tags={"dvc/stage": stage.address.replace("@", "/")},
    )
    def run_stage(context: AssetExecutionContext, config: StageRun) -> Iterator[Event]:
        started = time.time()
        tag_run(context, project.root)

        def quality() -> list[AssetCheckResult]:
            if checks_file is None or checked is None:
                return []
            return quality_results(project.root / checks_file, translator.asset_key(checked), names)

        try:
            outcome = command.repro(context, stage, op_name, config.force, LiveFacts(context, pairs[0][1].key).take)
        except Failure:
            if checks_file is not None and _written_since(project, checks_file, started):
                yield from quality()
            raise
        yield from _results(project, stage, outcome, pairs)
        results = quality()
        pushed = _push(context, project, stage, command, config, results)
        yield from (pushed_result(spec.key, pushed) for out, spec in pairs if out.cached)
        yield from results

    return run_stage


def _results(
    project: Project, stage: StageRecord, outcome: Outcome, pairs: Sequence[tuple[Out, AssetSpec]]
) -> Iterator[MaterializeResult[Any]]:
    entry = read_lock(project.root).get(stage.address)
    for out, spec in pairs:
        version = entry.outs.get(out.path) if entry is not None else None
        if version is None:
            raise DataError(message(f"dvc.lock has no {out.path} of stage {stage.address}", fix='run "dvc status"'))
        metadata = describe(project.root, stage, out, version)
        metadata |= facts(outcome.facts, outcome.seconds, stage.address in outcome.ran)
        yield MaterializeResult(asset_key=spec.key, metadata=metadata, data_version=DataVersion(version.md5))


def _push(
    context: AssetExecutionContext,
    project: Project,
    stage: StageRecord,
    command: DvcCommand,
    config: StageRun,
    results: Sequence[AssetCheckResult],
) -> Pushed:
    if blocks(results):
        return Pushed(False, "not pushed: the data failed a blocking check")
    if not config.push:
        return Pushed(False, "not pushed: switched off for this run")
    pushed = push(project.root, stage.address, lambda arguments: command.run(context, arguments))
    (context.log.info if pushed.passed else context.log.warning)(f"{stage.address}: {pushed.text}")
    return pushed


def checked_asset(stage: StageRecord, path: str, translator: Translator) -> Out:
    """Return the output of a stage that a checks.json speaks of: the first, whichever of them holds the file.

    Raises:
        ConfigError: None holds it.
    """
    outs = translator.asset_outs(stage)
    if any(path == out.path or path.startswith(f"{out.path}/") for out in outs):
        return outs[0]
    raise ConfigError(
        message(f"dvc.yaml: stage {stage.address}: meta.dagster.checks", path, "a file in one of its outs")
    )


def _written_since(project: Project, path: str, moment: float) -> bool:
    file = project.root / path
    return file.is_file() and file.stat().st_mtime >= moment
