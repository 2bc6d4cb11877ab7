"""Training curves while they grow: JSON lines that decide, and dvclive's files (and TensorBoard's) made from them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dvclive.live import Live

from assets.atomic import write_json

ROWS = "rows.jsonl"
LIVE = "live"
PERF = "perf"
"""The group of curves that tell the machine and the moment, not the run."""
_EVENTS = "tensorboard"
_CURVES = Path("plots/metrics")


class MetricLog:
    """Appends rows; a resumed run first drops the rows after its checkpoint.

    ``rows.jsonl`` is the truth, ``live/`` is dvclive's layout of it (``metrics.json``, ``plots/metrics/**.tsv``) with
    TensorBoard event files below ``live/tensorboard/`` where wanted; both can be watched while the run goes on.
    """

    def __init__(self, folder: Path, first_step: int, tensorboard: bool) -> None:
        """Open the log.

        Args:
            folder: Where it lives between attempts.
            first_step: Rows of this step and later ones are dropped.
            tensorboard: Also write TensorBoard event files.
        """
        self._path = folder / ROWS
        self._folder = folder / LIVE
        rows = [row for row in read_rows(self._path) if row["step"] < first_step] if self._path.exists() else []
        folder.mkdir(parents=True, exist_ok=True)
        self._path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        shutil.rmtree(self._folder, ignore_errors=True)
        self._live = Live(str(self._folder), save_dvc_exp=False, dvcyaml=None, report=None, monitor_system=False)
        self._writer: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder / _EVENTS))
        for row in rows:
            self._show(row)

    def append(self, step: int, values: dict[str, float]) -> None:
        """Write one row.

        Args:
            step: Optimiser step, from 0.
            values: Name -> number; a slash in a name makes a group of curves.
        """
        row = {"step": step, **values}
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        self._show(row)

    def _show(self, row: dict[str, Any]) -> None:
        self._live.step = row["step"]
        for name, value in row.items():
            if name != "step":
                self._live.log_metric(name, value)
                if self._writer is not None:
                    self._writer.add_scalar(name, value, row["step"])
        self._live.make_summary()

    def close(self) -> None:
        """Flush everything."""
        self._live.end()
        if self._writer is not None:
            self._writer.close()


def publish_curves(folder: Path, target: Path) -> None:
    """Copy dvclive's files of a closed log, but for what differs from machine to machine.

    Args:
        folder: Where the log lives.
        target: An existing folder; gets ``metrics.json`` and ``plots/metrics/**.tsv``.
    """
    live = folder / LIVE
    if (live / _CURVES).is_dir():
        shutil.copytree(live / _CURVES, target / _CURVES, ignore=_without_perf(live / _CURVES))
    last: dict[str, Any] = json.loads((live / "metrics.json").read_text(encoding="utf-8"))
    write_json(target / "metrics.json", {name: value for name, value in last.items() if name != PERF})


def publish_speed(folder: Path, target: Path) -> None:
    """Copy what :func:`publish_curves` leaves: curves of speed and memory, and TensorBoard's files, which have dates.

    Args:
        folder: Where the log lives.
        target: An existing folder; gets ``perf/*.tsv``, and ``tensorboard/`` where it was wanted.
    """
    for source in (folder / LIVE / _CURVES / PERF, folder / LIVE / _EVENTS):
        if source.is_dir():
            shutil.copytree(source, target / source.name)


def _without_perf(root: Path) -> Callable[[str, list[str]], set[str]]:
    """Return what tells ``copytree`` to leave out the group of speed, and no group inside another of that name."""
    return lambda folder, names: {PERF} & set(names) if Path(folder) == root else set()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a metric log; a half-written last line, left by a kill, is dropped."""
    rows: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
