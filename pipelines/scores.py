"""``python -m pipelines scores``: the scores of every run in one file, in the form that ``dvc metrics`` reads.

DVC shows numbers in nested mappings and drops lists, so it cannot show ``reports/leaderboard.json``; and the metrics
of a run lie inside a folder that is one output, where a stage may not name them a second time.
"""

import json
from pathlib import Path
from typing import Any

from assets.atomic import write_json
from assets.manifest import read_manifest
from assets.section import read_yaml


def write_scores(params: Path, reports: Path, out: Path) -> dict[str, Any]:
    """Collect ``metrics.json`` of every run in params.yaml.

    Args:
        params: The file that names the runs.
        reports: The folder that holds one evaluated run per subfolder.
        out: Where to write.

    Returns:
        Run -> nested scores, as written.

    Raises:
        DataError: A run was not evaluated.
    """
    scores: dict[str, Any] = {}
    for run in read_yaml(params).get("runs") or {}:
        folder = reports / str(run)
        read_manifest(folder)
        scores[str(run)] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    write_json(out, scores)
    return scores
