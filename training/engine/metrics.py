"""Training curves: one JSON line per logged step while training, dvclive's files (and TensorBoard's) when published."""

import json
from pathlib import Path
from typing import Any

from dvclive.live import Live


class MetricLog:
    """Appends rows to a JSONL file; a resumed run first drops the rows after its checkpoint."""

    def __init__(self, path: Path, first_step: int) -> None:
        self._path = path
        rows = [row for row in read_rows(path) if row["step"] < first_step] if path.exists() else []
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def append(self, step: int, values: dict[str, float]) -> None:
        """Write one row.

        Args:
            step: Optimiser step, from 0.
            values: Name -> number; a slash in a name makes a group of curves.
        """
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **values}) + "\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a metric log; a half-written last line, left by a kill, is dropped."""
    rows: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def publish_curves(rows: list[dict[str, Any]], folder: Path, tensorboard: bool) -> None:
    """Write the rows in dvclive's layout, for ``dvc metrics`` and ``dvc plots``.

    Args:
        rows: From :func:`read_rows`, in order.
        folder: The run folder; gets ``metrics.json`` and ``plots/metrics/**.tsv``.
        tensorboard: Also write TensorBoard event files below ``tensorboard/``.
    """
    with Live(str(folder), save_dvc_exp=False, dvcyaml=None, report=None, monitor_system=False) as live:
        for row in rows:
            live.step = row["step"]
            for name, value in row.items():
                if name != "step":
                    live.log_metric(name, value)
            live.make_summary()
    if tensorboard:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(folder / "tensorboard")) as writer:
            for row in rows:
                for name, value in row.items():
                    if name != "step":
                        writer.add_scalar(name, value, row["step"])
