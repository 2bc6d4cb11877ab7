"""``python -m pipelines.deployment``: what must hold before the services of a deployment start, done or refused once.

Run in the clone that the services share: by the service ``prepare`` of compose.yaml, by hand on Kubernetes.
"""

import argparse
import os
import sys
from pathlib import Path

from assets.command import guarded
from assets.errors import ConfigError, message
from assets.store import STORE_FOLDER, open_store
from pipelines.dvc_remote import configure_dvc_remote
from pipelines.instance import prepare_instance
from pipelines.params import PARAMS, load_store
from pipelines.preflight import check_repository


def prepare(root: Path) -> Path:
    """Check a clone and make Dagster's instance, the bucket and DVC's remote; a second call changes nothing.

    Args:
        root: The clone.

    Returns:
        The instance folder, to be used as ``DAGSTER_HOME``.

    Raises:
        ConfigError: It is no clone of ours, is not ours to write in, or params.yaml names a store on this machine.
        StoreError: Postgres or the store does not answer, or refuses us.
    """
    if not os.access(root, os.W_OK):
        raise ConfigError(
            message(
                f"user {os.getuid()} may not write in {root.resolve()}",
                fix="run the containers under the ids of its owner, CLIPFOUNDRY_UID and CLIPFOUNDRY_GID in .env",
            )
        )
    check_repository(root)
    config = load_store(root / PARAMS)
    if config.embedded:
        raise ConfigError(
            message(
                f"{PARAMS}: store.server",
                config.server,
                "external",
                "in a deployment the store is a service: set store.endpoint to its address, e.g. http://store:9000",
            )
        )
    home = prepare_instance(root)
    store = open_store(config, root / STORE_FOLDER)
    store.ensure_bucket()
    configure_dvc_remote(config, store.credentials, root)
    return home


def _parser() -> argparse.ArgumentParser:
    text = "Check this clone and make what the services of a deployment need."
    return argparse.ArgumentParser(prog="python -m pipelines.deployment", description=text)


if __name__ == "__main__":
    _parser().parse_args()
    sys.exit(guarded(lambda: print(f"ready; DAGSTER_HOME is {prepare(Path())}")))
