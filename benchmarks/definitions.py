"""Measure how long Dagster takes to load and validate the definitions, beside what an empty project costs it.

Run ``python benchmarks/definitions.py`` in the repository root; it writes benchmarks/results/definitions.json.
The cases take turns, and CPU seconds of all processes are the figure to compare: the wall clock also counts what else
the machine does.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "pipelines"))

from conftest import REPOSITORY, many_stages
from record import record

from pipelines.dvc_command import stage_environment
from pipelines.dvc_project import load_project
from pipelines.stamp_cache import MEMORY

REPEATS = 3
MANY = 60
VALIDATE = [sys.executable, "-m", "dagster", "definitions", "validate", "-m"]
LOAD = [sys.executable, "-c", "import {0}; {0}.defs.get_repository_def()"]


def make_projects(folder: Path) -> dict[str, tuple[Path, str]]:
    """Return case -> (folder to run in, module with the definitions)."""
    for name in ("empty", "demo", "many"):
        (folder / name).mkdir()
    (folder / "empty" / "nothing.py").write_text("import dagster\n\ndefs = dagster.Definitions()\n", encoding="utf-8")
    (folder / "demo" / "dvc.yaml").write_bytes((REPOSITORY / "dvc.yaml").read_bytes())
    (folder / "demo" / "params.yaml").write_bytes((REPOSITORY / "profiles" / "demo.yaml").read_bytes())
    many_stages(folder / "many", MANY)
    demo, many = (len(load_project(folder / name).stages) for name in ("demo", "many"))
    return {
        "empty Definitions": (folder / "empty", "nothing"),
        f"{demo} stages, first load": (folder / "demo", "pipelines.definitions"),
        f"{demo} stages": (folder / "demo", "pipelines.definitions"),
        f"{many} stages": (folder / "many", "pipelines.definitions"),
    }


def measure(command: list[str], folder: Path) -> tuple[float, float]:
    """Run a command; return (CPU seconds, wall-clock seconds)."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=folder, env=stage_environment(), check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.perf_counter() - started


def main() -> None:
    taken: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        cases = make_projects(Path(folder))
        measure([*VALIDATE, "pipelines.definitions"], Path(folder) / "many")  # fills its memory
        for _ in range(REPEATS):
            for case, (place, module) in cases.items():
                if case.endswith("first load"):
                    (place / MEMORY).unlink(missing_ok=True)
                load = [part.format(module) for part in LOAD]
                taken.setdefault(f"validate, {case}", []).append(measure([*VALIDATE, module], place))
                if case.endswith("first load"):
                    (place / MEMORY).unlink(missing_ok=True)
                taken.setdefault(f"load, {case}", []).append(measure(load, place))
    rows = {
        case: {
            "cpu_seconds": round(sorted(cpu for cpu, _ in pairs)[REPEATS // 2], 2),
            "wall_seconds": round(sorted(wall for _, wall in pairs)[REPEATS // 2], 2),
        }
        for case, pairs in taken.items()
    }
    record("definitions", {"repeats": REPEATS, "median": rows})


if __name__ == "__main__":
    main()
