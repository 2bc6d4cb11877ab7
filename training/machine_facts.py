"""What only the machine that trained a run can say of it: ``logs/R/machine.json``, which no stage declares.

It stays light: the leaderboard reads these facts without loading torch.
"""

import json
from pathlib import Path
from typing import Any

from assets.errors import DataError, message

LOGS = Path("logs")
"""Holds a folder per run; git ignores it, and nothing that DVC versions depends on it."""
MACHINE = "machine.json"
_KEYS = ("model_version", "cost", "git", "device")


def read_machine(folder: Path) -> dict[str, Any] | None:
    """Read what training wrote about the machine and the moment (see ``training.publish.publish_machine``).

    Args:
        folder: Of one run, e.g. ``logs/R``.

    Returns:
        The facts, or None where the run was trained in another clone.

    Raises:
        DataError: The file is not what training writes.
    """
    path = folder / MACHINE
    if not path.is_file():
        return None
    fix = "delete it: nothing but the times of the run is lost"
    try:
        facts: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(message(f"{path} is no JSON ({error})", fix=fix)) from error
    if not isinstance(facts, dict) or any(key not in facts for key in _KEYS):
        raise DataError(message(f"{path} lacks some of what training writes", wanted=", ".join(_KEYS), fix=fix))
    return facts  # pyright: ignore[reportUnknownVariableType]
