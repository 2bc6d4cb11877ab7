"""What must hold before a long command starts, each fault one sentence with a way out."""

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from assets.errors import ConfigError, DataError, message
from assets.store import STORE_FOLDER, Store, StoreConfig, open_store

if TYPE_CHECKING:
    from pipelines.params import Params

LEAST_FREE_GIB = 2.0
METHODS_PASSED = Path("work") / "methods_passed.json"
_GIB = 1 << 30


def check_repository(root: Path = Path()) -> None:
    """Refuse a folder that is not the top of a git repository with our DVC project in it.

    Raises:
        ConfigError: Saying what is missing.
    """
    answer = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "--show-toplevel"], capture_output=True, text=True, check=False
    )
    if answer.returncode:
        raise ConfigError(
            message(
                f"{root.resolve()} is not inside a git repository",
                fix="run in a clone of clipfoundry, because DVC records versions in git",
            )
        )
    top = Path(answer.stdout.strip())
    if top != root.resolve():
        raise ConfigError(message(f"{root.resolve()} is not the top of the repository", fix=f"run in {top}"))
    for needed in (".dvc", "dvc.yaml"):
        if not (root / needed).exists():
            raise ConfigError(message(f"{root.resolve()} has no {needed}", fix="run in a clone of clipfoundry"))


def free_gib(root: Path = Path()) -> float:
    """Return the free space of the disk that holds ``root``, in GiB."""
    return shutil.disk_usage(root).free / _GIB


def check_disk(root: Path = Path(), wanted_gib: float = LEAST_FREE_GIB) -> None:
    """Refuse a disk that will be full before the work is done.

    Raises:
        DataError: With the figures.
    """
    if (free := free_gib(root)) < wanted_gib:
        raise DataError(
            message(
                f"the disk of {root.resolve()} has {free:.1f} GiB left",
                wanted=f"{wanted_gib:.1f} GiB",
                fix='free some, for example with "dvc gc --all-commits --skip-failed --not-in-remote"',
            )
        )


def check_store(config: StoreConfig, root: Path = Path()) -> Store:
    """Connect to the store and check that it answers, takes our keys and has our bucket.

    Raises:
        StoreError: Saying which of them is wrong.
    """
    store = open_store(config, root / STORE_FOLDER)
    store.health()
    return store


def preflight(params: Path, root: Path = Path()) -> "Params":
    """Run every check that a pipeline run needs, cheapest first.

    Args:
        params: The params.yaml of the run.
        root: The repository.

    Returns:
        The checked params.yaml.
    """
    from pipelines.params import load_params

    check_repository(root)
    checked = load_params(params, root / METHODS_PASSED)
    check_disk(root)
    return checked
