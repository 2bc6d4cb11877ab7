"""Jobs: everything, or one group of assets."""

from collections.abc import Sequence

from dagster import AssetsDefinition, AssetSelection, define_asset_job
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

EVERYTHING = "everything"


def build_jobs(assets: Sequence[AssetsDefinition]) -> list[UnresolvedAssetJobDefinition]:
    """Make a job for all assets and one for each group.

    Args:
        assets: The assets of the project.

    Returns:
        The jobs, the one for everything first.
    """
    groups = sorted({spec.group_name for definition in assets for spec in definition.specs if spec.group_name})
    return [
        define_asset_job(EVERYTHING, AssetSelection.all(), description="Brings every output up to date."),
        *(
            define_asset_job(f"{group}_only", AssetSelection.groups(group), description=f"The assets of group {group}.")
            for group in groups
        ),
    ]
