"""Measure what DVC and Dagster add to one stage that does next to nothing (the toy project of tests/pipelines).

Run ``python benchmarks/orchestration.py`` in the repository root; it writes benchmarks/results/orchestration.json.
CPU seconds of all processes are the figure to compare, because the wall clock also counts what else the machine does.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "pipelines"))

from conftest import DVC_YAML, PARAMS, STAGES, Toy
from record import record

from pipelines.dvc_command import stage_environment
from pipelines.instance import prepare_instance

ROOT = Path(__file__).resolve().parent.parent
REPEATS = 5
DAGSTER = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "pipelines.definitions"]
ASSET = 'key:"data/raw-emoji"'


def make_project(root: Path) -> Toy:
    (root / "toy_stages.py").write_text(STAGES.read_text(encoding="utf-8"), encoding="utf-8")
    (root / "dvc.yaml").write_text(DVC_YAML, encoding="utf-8")
    (root / ".gitignore").write_text("/data\n/models\n/runs\n/reports\n/stamps\n/work\n/.dagster\n")
    toy = Toy(root)
    toy.set()
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    toy.dvc("init", "-q")
    toy.dvc("repro", "-q", "ingest")
    return toy


def measure(toy: Toy, command: list[str], home: Path, change: bool) -> dict[str, float]:
    """Take the median over a few runs; ``change`` edits a parameter before each, so that the stage really runs."""
    taken: list[tuple[float, float]] = []
    for repeat in range(REPEATS):
        if change:
            toy.set(samples=PARAMS["toy"]["samples"] + repeat + int(time.time()) % 10_000)
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        environment = {**stage_environment(), "DAGSTER_HOME": str(home)}
        subprocess.run(command, cwd=toy.root, env=environment, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        taken.append((cpu, time.perf_counter() - started))
    cpus, walls = zip(*taken, strict=True)
    return {"cpu_seconds": round(sorted(cpus)[REPEATS // 2], 2), "wall_seconds": round(sorted(walls)[REPEATS // 2], 2)}


def main() -> None:
    dvc = [sys.executable, "-m", "dvc", "repro", "-q", "--single-item"]
    with tempfile.TemporaryDirectory() as folder:
        toy = make_project(Path(folder))
        home = prepare_instance(toy.root)
        rows = {
            "stage alone": measure(toy, [sys.executable, "toy_stages.py", "ingest", "emoji"], home, change=True),
            "dvc repro, stage runs": measure(toy, [*dvc, "stamps", "ingest@emoji"], home, change=True),
            "dvc repro, nothing to do": measure(toy, [*dvc, "stamps", "ingest@emoji"], home, change=False),
            "dagster, stage runs": measure(toy, [*DAGSTER, "--select", ASSET], home, change=True),
            "dagster, nothing to do": measure(toy, [*DAGSTER, "--select", ASSET], home, change=False),
        }
    record("orchestration", {"repeats": REPEATS, "median": rows})


if __name__ == "__main__":
    main()
