"""Why a pair was kept or dropped, in words."""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported, out of a type checker's sight

import difflib
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from assets.errors import DataError, message
from assets.manifest import read_manifest
from assets.reduction.config import MEASURES
from assets.reduction.plan import KIND, SUMMARY, read_rows

_NEAR = 50_000
"""Keys among which a mistyped one is looked for."""


def explain(folder: Path, key: str) -> str:
    """Explain what a policy decided about a pair.

    Args:
        folder: Folder ``data/reduced/P``.
        key: Of the pair.

    Returns:
        Some lines of text.

    Raises:
        DataError: The plan is missing, or has no such pair.
    """
    name: str = read_manifest(folder, KIND)["name"]
    rows = read_rows(folder)
    place = pc.index(rows.column("key"), key).as_py()
    if place < 0:
        raise DataError(_no_such_pair(folder, rows, key))
    summary: dict[str, Any] = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    row: dict[str, Any] = rows.slice(place, 1).to_pylist()[0]
    lines = [f"{key}: {'kept' if row['kept'] else 'dropped'} by policy {name}"]
    if not row["kept"]:
        lines.append(f"  dropped in step {row['reason']}")
    lines += _chain(summary["steps"], row)
    for measure in MEASURES:
        if math.isfinite(row[measure]):
            better = pc.sum(pc.greater(rows.column(measure), row[measure])).as_py()
            lines.append(f"  {measure} {row[measure]:.4f}: that of {better} of {len(rows)} pairs of the pool is higher")
    if row["cluster"] >= 0:
        line = f"  cluster {row['cluster']}: place {row['order'] + 1} in the order in which its members are looked at"
        if sum("clusters" in step for step in summary["steps"]) == 1:  # otherwise numbers mean clusters of two kinds
            members = rows.filter(pc.field("cluster") == row["cluster"])
            line += f"; of {len(members)} members, {pc.sum(members.column('kept')).as_py()} are kept"
        lines.append(line)
    if math.isfinite(row["similarity"]):
        lines.append(f"  cosine to the closest earlier pair of its cluster: {row['similarity']:.4f}")
    if row["kept"]:
        lines.append(f"  caption: {row['caption']}" if row["caption"] is not None else "  caption: its own")
        if row["caption_of"] is not None:
            lines.append(f"  as noise, it was given the caption of {row['caption_of']}")
    return "\n".join(lines)


def _chain(steps: list[dict[str, Any]], row: dict[str, Any]) -> list[str]:
    """Say what each step did, up to the one that dropped the pair."""
    lines: list[str] = []
    for step in steps:
        here = row["reason"].startswith(f"{step['step']}: ")
        limits: list[str] = []
        if step.get("threshold") is not None:
            limits.append(f"threshold {step['threshold']:.4f} by {step['by']}")
        if step.get("most_similar") is not None:
            limits.append(f"cosines up to {step['most_similar']:.4f} stay")
        if step.get("threshold_pairs") is not None:
            limits.append(f"concepts of up to {step['threshold_pairs']} pairs stay whole")
        told = f" ({'; '.join(limits)})" if limits else ""
        verdict = "dropped here" if here else "passed"
        lines.append(f"  step {step['step']}: {verdict}; kept {step['kept']} of {step['seen']}{told}")
        if here:
            break
    return lines


def _no_such_pair(folder: Path, rows: pa.Table, key: str) -> str:
    near = difflib.get_close_matches(key, rows.column("key").slice(0, _NEAR).to_pylist(), n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    fix = "look it up in rejects.parquet: validation may have rejected it, or it is of another split"
    return message(f"{folder} has no pair {key!r} in its pool{hint}", fix=fix)
