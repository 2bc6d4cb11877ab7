"""The project's own Dagster instance, git-ignored and made on first use: SQLite files in ``.dagster/``, or Postgres.

Postgres is used where the environment says ``DAGSTER_POSTGRES_HOST``, as Dagster's own deployments do. This is the one
setting that params.yaml does not hold: the history belongs to the machine, and its password to no file.
"""

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

from assets.atomic import write_text
from assets.errors import ConfigError, StoreError, message

FOLDER = Path(".dagster")
TEMPLATE = Path(__file__).with_name("dagster.yaml")
POSTGRES_TEMPLATE = Path(__file__).with_name("dagster_postgres.yaml")
_SELECTOR = "DAGSTER_POSTGRES_HOST"
POSTGRES_VARIABLES = (
    _SELECTOR,
    "DAGSTER_POSTGRES_PORT",
    "DAGSTER_POSTGRES_USER",
    "DAGSTER_POSTGRES_PASSWORD",
    "DAGSTER_POSTGRES_DB",
)


def pool_limits() -> dict[str, int]:
    """Return the slots that each pool starts with: one stage at a time on the GPU, half the cores for the rest."""
    return {"gpu": 1, "cpu": max(1, (os.cpu_count() or 2) // 2)}


def uses_postgres() -> bool:
    """Say whether the environment names a Postgres server."""
    return bool(os.environ.get(_SELECTOR))


def home_folder(root: Path) -> Path:
    """Return the instance folder of a project, to be used as ``DAGSTER_HOME``.

    The two storages have a folder each, so that ``clipfoundry ui`` beside a running deployment changes nothing there.
    """
    folder = (root / FOLDER).resolve()
    return folder / "postgres" if uses_postgres() else folder


def prepare_instance(root: Path, limits: Mapping[str, int] | None = None) -> Path:
    """Make the instance folder of a project unless it is there, and give pools without a limit their first one.

    Args:
        root: The project.
        limits: Pool -> slots; :func:`pool_limits` when None. A limit changed in the UI is left alone.

    Returns:
        The folder, to be used as ``DAGSTER_HOME``.

    Raises:
        ConfigError: Postgres is asked for, but a variable or the package for it is missing.
        StoreError: Postgres does not answer, or refuses us.
    """
    text = TEMPLATE.read_text(encoding="utf-8")
    if uses_postgres():
        _check_postgres()
        text += POSTGRES_TEMPLATE.read_text(encoding="utf-8")
    home = home_folder(root)
    home.mkdir(parents=True, exist_ok=True)
    settings = home / "dagster.yaml"
    if not settings.is_file() or settings.read_text(encoding="utf-8") != text:
        write_text(settings, text)
    _set_first_limits(home, limits or pool_limits())
    return home


def _set_first_limits(home: Path, limits: Mapping[str, int]) -> None:
    from dagster import DagsterInstance

    with DagsterInstance.from_config(str(home)) as instance:
        storage = instance.event_log_storage
        known = {pool.name for pool in storage.get_pool_limits()}
        for pool, slots in limits.items():
            if pool not in known:
                storage.set_concurrency_slots(pool, slots)


def _check_postgres() -> None:
    """Refuse half-given settings, and ask the server once, because Dagster tries again and again and ends unclear."""
    if missing := [name for name in POSTGRES_VARIABLES if not os.environ.get(name)]:
        raise ConfigError(
            message(
                f"{_SELECTOR} is set, but not {', '.join(missing)}",
                fix=f"set all of {', '.join(POSTGRES_VARIABLES)}, or unset {_SELECTOR} to use SQLite",
            )
        )
    if importlib.util.find_spec("dagster_postgres") is None:
        raise ConfigError(message("dagster-postgres is not installed", fix='run "pip install -e .[deploy]"'))
    host, port, user, password, database = (os.environ[name] for name in POSTGRES_VARIABLES)
    if not port.isdecimal():
        raise ConfigError(message("DAGSTER_POSTGRES_PORT", port, "a TCP port", "e.g. 5432"))
    import psycopg2

    try:
        psycopg2.connect(
            host=host, port=int(port), user=user, password=password, dbname=database, connect_timeout=10
        ).close()
    except psycopg2.OperationalError as error:
        reason = str(error).strip().splitlines()[0]
        raise StoreError(
            message(f"Postgres at {host}:{port} refuses us: {reason}", fix="start it, or mend DAGSTER_POSTGRES_*")
        ) from error
