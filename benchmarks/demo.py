"""Keep the scores and costs of the last ``make demo``: ``python benchmarks/demo.py`` after it, in the same clone.

Writes benchmarks/results/demo.json: the rows of the leaderboard (metrics in the columns of the report, costs, versions)
and the machine.
"""

import json
import os
import platform
from pathlib import Path

from assets.atomic import write_json
from assets.section import read_yaml


def cpu_model() -> str:
    """Return the processor's name as Linux spells it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    """Read the leaderboard and write the result file."""
    columns = read_yaml(Path("params.yaml"))["report"]["columns"]
    rows = json.loads(Path("reports/leaderboard.json").read_text(encoding="utf-8"))
    kept = [
        {
            "run": row["run"],
            "seed": row["seed"],
            "metrics": {name: row["metrics"][name] for name in columns},
            "intervals": {name: row["intervals"][name] for name in columns},
            "cost": row["cost"],
            "versions": row["versions"],
        }
        for row in rows
    ]
    machine = {"cpu": cpu_model(), "cores": os.cpu_count(), "python": platform.python_version()}
    write_json(Path("benchmarks/results/demo.json"), {"machine": machine, "profile": "demo", "rows": kept})


if __name__ == "__main__":
    main()
