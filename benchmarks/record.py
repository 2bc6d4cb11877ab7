"""Where benchmark results go, and the machine that each names."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from assets.atomic import write_json

RESULTS = Path(__file__).resolve().parent / "results"


def machine() -> dict[str, str | int]:
    """Return processor, cores, versions, commit and the load right now."""
    model = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True)
    return {
        "cpu": model,
        "cores": os.cpu_count() or 1,
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
        "load_average": Path("/proc/loadavg").read_text().split()[0],
    }


def record(name: str, result: dict[str, Any]) -> None:
    """Write ``results/NAME.json`` and print it.

    Args:
        name: Of the benchmark.
        result: JSON-serialisable figures.
    """
    write_json(RESULTS / f"{name}.json", {**result, "machine": machine()})
    for key, value in result.items():
        print(key, value)
