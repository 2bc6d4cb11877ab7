"""Keep the scores and costs of the last ``make demo``: ``python benchmarks/demo.py`` after it, in the same clone.

Writes benchmarks/results/demo.json: the rows of the leaderboard (metrics in the columns of the report, costs, versions)
and the machine.
"""

import json
from pathlib import Path

from record import record

from assets.section import read_yaml


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
    record("demo", {"profile": "demo", "rows": kept})


if __name__ == "__main__":
    main()
