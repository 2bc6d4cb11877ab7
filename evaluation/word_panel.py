"""The panel of words on the leaderboard page: what the evaluator ``words`` wrote of runs over words."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from evaluation.results import Row
from evaluation.word_truth import TABLE

_SHOWN = 20


def word_blocks(rows: Sequence[Row], reports: Path, order: Callable[[str], Any]) -> list[dict[str, Any]]:
    """Return the most widespread words of the pictures of each run that has any.

    Args:
        rows: The runs.
        reports: Holds ``R/`` of ``evaluate``.
        order: Sort key of suites; the first one is shown.

    Returns:
        Per run its name and label, the suite, the rows of its table by rank, and ``numbers``: active words per picture
        and the share of junk, or None if its metrics lack them.
    """
    blocks: list[dict[str, Any]] = []
    for row in rows:
        path = reports / row.run / f"{TABLE}.parquet"
        told: list[dict[str, Any]] = pq.read_table(path).to_pylist() if path.is_file() else []
        shown = [item for item in told if item["side"] == "image"]
        if not shown:
            continue
        suite = min((str(item["suite"]) for item in shown), key=order)
        words = sorted((item for item in shown if item["suite"] == suite), key=lambda item: int(item["rank"]))[:_SHOWN]
        active, junk = (row.metrics.get(f"words.{suite}.num_{name}_image") for name in ("active", "junk_share"))
        numbers = None if active is None or junk is None else {"active": active, "junk": junk}
        blocks.append({"run": row.run, "label": row.label, "suite": suite, "words": words, "numbers": numbers})
    return blocks
