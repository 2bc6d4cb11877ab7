"""The leaderboard as a table in the terminal."""

import json
from pathlib import Path
from typing import Any

from assets.errors import DataError, message

LEADERBOARD = Path("reports/leaderboard.json")
PAGE = Path("reports/leaderboard.html")
