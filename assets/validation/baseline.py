"""The baseline of a data set: ``baselines/D.json``, the profile that people last accepted as what it should look like.

It lies in git, not among the outputs: accepting a change is a decision, and its history is worth keeping.
"""

import json
from pathlib import Path
from typing import Any

from assets.atomic import write_text
from assets.errors import DataError, message
from assets.validation.expectations import CHECKS, DRIFT_CHECKS
from assets.validation.profile import EDGES, FORMAT, PROFILE

BASELINES = Path("baselines")


def read_baseline(path: Path, name: str) -> dict[str, Any] | None:
    """Read a baseline.

    Args:
        path: The file.
        name: Name of the data set.

    Returns:
        The profile, or None when there is no such file.

    Raises:
        DataError: It is damaged, or of a form that cannot be compared.
    """
    if not path.is_file():
        return None
    try:
        profile = json.loads(path.read_text(encoding="utf-8"))
        comparable = profile["format"] == FORMAT and profile["edges"] == EDGES
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(message(f"{path} is no profile of a data set", fix='restore it with "git checkout"')) from error
    if not comparable:
        fix = f'remove it, run "clipfoundry stage validate {name}", then "clipfoundry baseline {name}"'
        raise DataError(message(f"{path} has another format than this version compares with", fix=fix))
    return profile


def accept_baseline(name: str, valid: Path, docs: Path, out: Path) -> None:
    """Make the data as they are the reference for the next version.

    Args:
        name: Name of the data set.
        valid: What ``validate`` wrote, passed or failed for its drift.
        docs: Its report.
        out: The file to write.

    Raises:
        DataError: There is no profile, or the data failed a check that has nothing to do with drift.
    """
    if not (valid / PROFILE).is_file():
        raise DataError(message(f"{valid} has no {PROFILE}", fix=f'run "clipfoundry stage validate {name}" first'))
    checks = json.loads((docs / CHECKS).read_text(encoding="utf-8"))
    failed = [
        check["name"]
        for check in checks
        if not check["passed"] and check["severity"] == "error" and check["name"] not in DRIFT_CHECKS
    ]
    if failed:
        fix = "mend the data or the limits first; only data that pass may become the reference"
        raise DataError(message(f"data set {name} failed the checks {', '.join(failed)}", fix=fix))
    write_text(out, (valid / PROFILE).read_text(encoding="utf-8"))
