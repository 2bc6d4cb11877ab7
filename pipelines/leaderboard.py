"""The leaderboard as a table in the terminal."""

import json
from pathlib import Path
from typing import Any

from assets.errors import DataError, message

LEADERBOARD = Path("reports/leaderboard.json")
PAGE = Path("reports/leaderboard.html")


def print_leaderboard(path: Path = LEADERBOARD) -> None:
    """Print the leaderboard's rows, best first.

    Args:
        path: The file that ``compare`` wrote.

    Raises:
        DataError: It is not there.
    """
    if not path.is_file():
        raise DataError(message(f"{path} does not exist", fix='run "clipfoundry demo" or "clipfoundry repro" first'))
    print("\n".join(table(json.loads(path.read_text(encoding="utf-8")))))


def table(leaderboard: dict[str, Any]) -> list[str]:
    """Lay the leaderboard out as lines of text."""
    raise NotImplementedError
