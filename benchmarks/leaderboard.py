"""Keep the scores and costs of the leaderboard that this clone has just made: ``python benchmarks/leaderboard.py``.

Run it after ``make demo`` or ``dvc repro``, in the same clone. It writes benchmarks/results/PROFILE.json: for each
recipe the mean over its seeds with the 95 % interval of the leaderboard page (seeds and test set), every run's own
scores and costs, how long it trained here, the last value of the curves in the report, and the machine.
"""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from record import record

from assets.section import parse, read_yaml
from evaluation.config import ReportConfig
from evaluation.curves import read_curve
from evaluation.nested import rounded
from evaluation.results import Folders, Group, Row, group_rows, read_rows
from evaluation.times import read_times
from training.config import RunConfig
from training.machine_facts import LOGS


def read(params: dict[str, Any], config: ReportConfig) -> list[Row]:
    """Read the results of all runs of params.yaml."""
    runs = {name: parse(RunConfig, value, f"runs.{name}") for name, value in params["runs"].items()}
    folders = Folders(
        reports=Path("reports/runs"),
        runs=Path("runs"),
        models=Path("models"),
        raw=Path("data/raw"),
        valid=None,
        params=Path("params.yaml"),
    )
    return read_rows(runs, folders, config.main_metric)


def last_values(run: str, config: ReportConfig) -> dict[str, float]:
    """Return where the curves of the report end."""
    names = dict.fromkeys((*config.curves, *config.compute_curves))
    paths = {name: Path("runs") / run / "plots/metrics" / f"{name}.tsv" for name in names}
    return {name: read_curve(path)[-1][1] for name, path in paths.items() if path.is_file()}


def summary(group: Group, config: ReportConfig) -> dict[str, Any]:
    """Return mean, interval and seeds of each metric in the columns of the report."""
    found = {metric: group.estimate(metric) for metric in config.columns}
    return {
        "seeds": len(group.rows),
        "flops": group.cost("flops"),
        "samples_seen": group.cost("samples_seen"),
        "metrics": {
            metric: {"mean": one.value, "low": one.low, "high": one.high, "scores": list(one.scores)}
            for metric, one in found.items()
            if one is not None
        },
    }


def main() -> None:
    """Read the leaderboard and write the result file."""
    params = read_yaml(Path("params.yaml"))
    config = parse(ReportConfig, params["report"], "params.yaml: report")
    rows = read(params, config)
    table = json.loads(Path("reports/leaderboard.json").read_text(encoding="utf-8"))
    assert {row["run"] for row in table} == {row.run for row in rows}, "the leaderboard is of other runs; compare anew"
    times = read_times(rows, LOGS)
    result = {
        "profile": params["profile"],
        "groups": {group.label: summary(group, config) for group in group_rows(rows)},
        "runs": {
            row.run: {
                "metrics": {metric: row.metrics[metric] for metric in config.columns if metric in row.metrics},
                "curves_end_at": last_values(row.run, config),
                "cost": row.cost,
                "versions": row.versions,
                "trained": times.get(row.run),
            }
            for row in rows
        },
    }
    record(params["profile"], rounded(result))


if __name__ == "__main__":
    main()
