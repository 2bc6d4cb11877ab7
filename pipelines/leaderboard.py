"""The leaderboard as a table in the terminal."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from assets.config import read_sections
from assets.errors import DataError, message

LEADERBOARD = Path("reports/leaderboard.json")
PAGE = Path("reports/leaderboard.html")
_TIMES = "times.json"
_FACTS = ("run", "recipe", "dataset", "policy", "features", "seed")
_HEADER_LINES = 3


def print_leaderboard(path: Path = LEADERBOARD, params: Path = Path("params.yaml")) -> None:
    """Print the leaderboard's rows, best first, with the metrics that ``report.columns`` names.

    Args:
        path: The file that ``compare`` wrote; training times are in ``times.json`` beside it, for runs trained here.
        params: The params.yaml with the section ``report``.

    Raises:
        DataError: There is no leaderboard yet.
    """
    if not path.is_file():
        raise DataError(message(f"{path} does not exist", fix='run "clipfoundry demo" or "clipfoundry repro" first'))
    rows = json.loads(path.read_text(encoding="utf-8"))
    report = read_sections(params)["report"]
    beside = path.with_name(_TIMES)
    times = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    print("\n".join(table(rows, report["columns"], times)))
    print(f"sorted by {report['main_metric']}; percent, with half of the 95 % interval")


def table(
    rows: Sequence[Mapping[str, Any]], metrics: Sequence[str], times: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Lay rows out as lines of text.

    Args:
        rows: Rows of leaderboard.json.
        metrics: Dotted names of the metrics to show; their parts stand above one another in the header.
        times: Run -> what times.json says of it.

    Returns:
        The lines: header, rule, one line per row.
    """
    facts = [name for name in _FACTS if name == "run" or len({str(row[name]) for row in rows}) > 1]
    columns: list[list[str]] = [["", "", name, *(str(row[name]) for row in rows)] for name in facts]
    columns += [[*_header(name), *(_score(row, name) for row in rows)] for name in metrics]
    columns += [["", "train", "time", *(_train_time(row, times) for row in rows)]]
    if "policy" in facts:
        columns += [["", "pairs", "in all", *(f"{row['cost'].get('pairs', 0):,.0f}" for row in rows)]]
    columns += [["", "pairs", "seen", *(f"{row['cost']['samples_seen']:,.0f}" for row in rows)]]
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join(
            cell.ljust(width) if index < len(facts) else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in zip(*columns, strict=True)
    ]
    return [*lines[:_HEADER_LINES], "-" * max(map(len, lines)), *lines[_HEADER_LINES:]]


def _header(metric: str) -> list[str]:
    """Spread the parts of a dotted name over the header's lines, the last part lowest."""
    parts = metric.split(".", _HEADER_LINES - 1)
    return [""] * (_HEADER_LINES - len(parts)) + parts


def _score(row: Mapping[str, Any], metric: str) -> str:
    if (value := row["metrics"].get(metric)) is None:
        return "-"
    interval = row["intervals"].get(metric)
    spread = f" +-{50 * (interval[1] - interval[0]):4.1f}" if interval else ""
    return f"{100 * value:.1f}{spread}"


def _train_time(row: Mapping[str, Any], times: Mapping[str, Mapping[str, Any]]) -> str:
    """Return how long a run trained, or a dash when it did so elsewhere, or its time is that of another model."""
    known = times.get(row["run"], {})
    return _duration(known["train_seconds"]) if known.get("model") == row["versions"]["model"] else "-"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
