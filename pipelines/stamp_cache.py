"""Code versions remembered between loads.

Following the imports of every stage costs seconds, asking whether any file changed costs milliseconds, and Dagster
loads its definitions anew in every step of every run.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from assets.atomic import write_json
from assets.code_stamp import PACKAGES, ROOT
from pipelines.dvc_project import PARAMS
from pipelines.stamps import BASELINES, BATCHES

MEMORY = Path(".dagster/code_versions.json")


def remembered_versions(root: Path, compute: Callable[[], Mapping[str, str]]) -> dict[str, str]:
    """Return what ``compute`` does, which is called only when a file that it may depend on has changed.

    Args:
        root: The project; the memory is a file in its ``.dagster`` folder, and can be deleted at any time.
        compute: Returns a version by name. It may read our code, params.yaml, baselines and accepted deliveries.

    Returns:
        Its result, or the one remembered.
    """
    state = _state(root)
    memory = root / MEMORY
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
        if known["state"] == state:
            return dict(known["versions"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none yet, or one that was cut off: both are written anew
    versions = dict(compute())
    try:
        memory.parent.mkdir(exist_ok=True)
        write_json(memory, {"state": state, "versions": versions})
    except OSError:
        pass  # a project that cannot be written to (an image of a container) goes without
    return versions


def _state(root: Path) -> str:
    """Digest names, sizes and times of all files that a version depends on, and the content of params.yaml."""
    params = root / PARAMS
    digest = hashlib.sha256(params.read_bytes() if params.is_file() else b"")
    for folder in (*(ROOT / package for package in PACKAGES), root / BASELINES, root / BATCHES):
        for path, found in sorted(_files(folder)):
            digest.update(f"{path} {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            path = Path(place, name)
            yield str(path), path.stat()
