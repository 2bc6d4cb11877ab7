"""How long runs took, on which machine and at which commit: files beside the leaderboard that no stage declares.

Two clones of one commit make the same leaderboard, byte for byte, so nothing in it may tell the machine or the moment.
Those facts stay where the run was trained (``training.publish.publish_machine``). ``compare`` gathers what is there in
``times.json`` for programs and in ``times.js`` for the page beside it, which fills its cells when it is opened.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from assets.atomic import write_json, write_text
from evaluation.results import Row
from evaluation.wording import duration
from training.machine_facts import read_machine

TIMES = "times.json"
_SCRIPT = "times.js"
_COMMIT_LETTERS = 12
_DIRTY = "-dirty"


def read_times(rows: Iterable[Row], logs: Path) -> dict[str, dict[str, Any]]:
    """Read what this machine knows of the runs of a leaderboard.

    Args:
        rows: The runs.
        logs: Holds ``R/machine.json`` of the runs that were trained here.

    Returns:
        Run -> ``model`` (its version), ``train_seconds``, ``total_seconds``, ``device`` and ``git``; without the runs
        that were trained elsewhere, or whose present model is another one than was trained here.

    Raises:
        DataError: A file is not what training writes.
    """
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        facts = read_machine(logs / row.run)
        if facts is None or facts["model_version"] != row.versions["model"]:
            continue
        found[row.run] = {
            "model": row.versions["model"],
            "train_seconds": round(facts["cost"]["train_seconds"], 3),
            "total_seconds": round(facts["cost"]["total_seconds"], 3),
            "device": facts["device"],
            "git": facts["git"],
        }
    return found


def write_times(times: Mapping[str, Mapping[str, Any]], table: Path, page: Path) -> None:
    """Write ``times.json`` beside the table and ``times.js`` beside the page.

    Args:
        times: What :func:`read_times` found.
        table: The leaderboard for programs.
        page: The leaderboard for people.
    """
    write_json(table.with_name(TIMES), times)
    shown = {run: {**facts, "words": _words(facts)} for run, facts in sorted(times.items())}
    # "<" must not end the script early, wherever a device may have its name from
    text = json.dumps(shown, sort_keys=True).replace("<", "\\u003c")
    write_text(page.with_name(_SCRIPT), f"const runTimes = {text};\n")


def _words(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the facts of one run as people read them."""
    git: str = facts["git"]
    return {
        "train_seconds": duration(facts["train_seconds"]),
        "total_seconds": duration(facts["total_seconds"]),
        "device": facts["device"],
        "git": git[:_COMMIT_LETTERS] + (_DIRTY if git.endswith(_DIRTY) else ""),
    }
