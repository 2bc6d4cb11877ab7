"""The project's own Dagster instance: ``.dagster/`` in the repository, git-ignored, made on first use."""

import os
from collections.abc import Mapping
from pathlib import Path

from assets.atomic import write_text

FOLDER = Path(".dagster")
TEMPLATE = Path(__file__).with_name("dagster.yaml")


def pool_limits() -> dict[str, int]:
    """Return the slots that each pool starts with: one stage at a time on the GPU, half the cores for the rest."""
    return {"gpu": 1, "cpu": max(1, (os.cpu_count() or 2) // 2)}


def prepare_instance(root: Path, limits: Mapping[str, int] | None = None) -> Path:
    """Make the instance folder of a project unless it is there, and give pools without a limit their first one.

    Args:
        root: The project.
        limits: Pool -> slots; :func:`pool_limits` when None. A limit changed in the UI is left alone.

    Returns:
        The folder, to be used as ``DAGSTER_HOME``.
    """
    home = (root / FOLDER).resolve()
    home.mkdir(exist_ok=True)
    settings = home / "dagster.yaml"
    template = TEMPLATE.read_text(encoding="utf-8")
    if not settings.is_file() or settings.read_text(encoding="utf-8") != template:
        write_text(settings, template)
    from dagster import DagsterInstance

    with DagsterInstance.from_config(str(home)) as instance:
        storage = instance.event_log_storage
        known = {pool.name for pool in storage.get_pool_limits()}
        for pool, slots in (limits or pool_limits()).items():
            if pool not in known:
                storage.set_concurrency_slots(pool, slots)
    return home
