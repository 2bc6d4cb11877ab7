"""What DVC shows of a data set: numbers for ``dvc metrics diff`` and tables for ``dvc plots diff``.

They are outputs of their own, since a file inside the output ``data/valid/D`` cannot be declared a second time.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from assets.atomic import write_json, write_text
from assets.validation.drift import PSI, Change
from assets.validation.histograms import shares, used_bins
from assets.validation.profile import EDGES

_DECIMALS = 6


def write_plots(
    folder: Path,
    metrics: Mapping[str, Any],
    profile: Mapping[str, Any],
    splits: Sequence[Mapping[Any, Any]],
    changes: Sequence[Change] | None,
) -> None:
    """Write metrics.json, rejects.csv and histograms/*.csv.

    Args:
        folder: An empty folder.
        metrics: What ``data/valid/D/metrics.json`` holds.
        profile: The content of profile.json.
        splits: The rows of the table ``splits``.
        changes: What was compared with the baseline, None without one.
    """
    write_json(folder / "metrics.json", _summary(metrics, profile, splits, changes))
    rejects = [[reason, number] for reason, number in metrics["rejected_by_reason"].items()]
    _write_csv(folder / "rejects.csv", ["reason", "samples"], rejects)
    train = [row["split"] for row in splits if row["role"] == "train"]
    for name, edges in EDGES.items():
        histograms = [profile["splits"][split]["histograms"][name] for split in train if split in profile["splits"]]
        counts = [sum(parts) for parts in zip(*histograms, strict=True)] or [0] * len(edges)
        shown = used_bins(counts)
        rows = [[low, round(share, _DECIMALS)] for low, share in zip(edges[shown], shares(counts)[shown], strict=True)]
        _write_csv(folder / "histograms" / f"{name}.csv", ["from", "share"], rows)


def _summary(
    metrics: Mapping[str, Any],
    profile: Mapping[str, Any],
    splits: Sequence[Mapping[Any, Any]],
    changes: Sequence[Change] | None,
) -> dict[str, Any]:
    """Return nested numbers, medians of the training split alone: DVC shows one column for each."""
    found: dict[str, Any] = dict(metrics)
    if changes is not None:
        found["largest_psi"] = round(max((c.value for c in changes if c.kind == PSI), default=0.0), _DECIMALS)
    found["splits"] = {}
    for row in splits:
        here = {"accepted": row["accepted"]}
        here |= {name: round(row[name], _DECIMALS) for name in ("rejected_share", "left_out_share", "language_share")}
        known = profile["splits"].get(row["split"], {}).get("quantiles", {})
        if row["role"] == "train":
            here["median"] = {name: values[len(values) // 2] for name, values in known.items() if values}
        found["splits"][str(row["split"])] = here
    return found


def _write_csv(path: Path, head: list[str], rows: Sequence[Sequence[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    write_text(path, text.getvalue())
