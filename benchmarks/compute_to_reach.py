"""How much training it takes to reach where another recipe ends: ``python benchmarks/compute_to_reach.py REFERENCE``.

Run it in a clone that has made the runs of its params.yaml. For every other recipe and seed it finds the first look at
the held-out pairs at which the curve is at least where the same seed of REFERENCE ends, and gives the operations until
then against all of REFERENCE's: 4 means a quarter. A look lasts ``holdout.every`` steps, so a factor is a lower bound.
Runs with a cached teacher are also charged with all of the cache: the teacher's forward passes over K views, the whole
image and the caption of every pair, although other students use it as well. It writes
benchmarks/results/compute_to_reach.json.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from record import record

from assets.manifest import read_manifest
from assets.section import read_yaml
from evaluation.curves import read_curve
from evaluation.export import count_flops
from evaluation.onnx_export import load_towers
from training.teachers.package import KIND, read_package


def curve_of(run: str, metric: str) -> list[tuple[float, float]]:
    """Return steps and values of a run's curve."""
    return [(step, value) for step, value in read_curve(Path("runs") / run / "plots/metrics" / f"{metric}.tsv")]


def cost_of(run: str) -> tuple[float, int]:
    """Return operations and steps of a run."""
    summary = read_yaml(Path("runs") / run / "summary.json")
    manifest = read_manifest(Path("models") / run, "model")
    return float(summary["cost"]["flops"]), int(manifest["counts"]["steps"])


def cache_flops(teacher: str) -> float:
    """Count what it took a teacher to fill its cache."""
    package = read_package(Path("data/teachers") / teacher)
    if package.cache is None:
        return 0.0
    pairs = read_manifest(package.folder, KIND)["counts"]["pairs"]
    images = pairs * (package.cache.views + 1)
    total = 0.0
    for model in package.models:
        towers = load_towers(model.folder)
        total += images * count_flops(towers.image) + (pairs * count_flops(towers.text) if towers.text else 0.0)
    return total


def factor(run: str, teacher: str, reference: str, metric: str) -> dict[str, Any]:
    """Compare one run with the reference of its seed."""
    whole, _ = cost_of(reference)
    flops, steps = cost_of(run)
    goal = curve_of(reference, metric)[-1][1]
    reached = next((step for step, value in curve_of(run, metric) if value >= goal), None)
    if reached is None:
        return {"run": run, "goal": goal, "reached": False}
    spent = flops * (reached + 1) / steps
    cache = 0.0 if teacher == "none" else cache_flops(teacher)
    return {
        "run": run,
        "goal": goal,
        "reached": True,
        "step": int(reached) + 1,
        "factor": round(whole / spent, 2),
        "factor_with_cache": round(whole / (spent + cache), 2),
        "cache_tflop": round(cache / 1e12, 2),
    }


def main() -> None:
    """Compare all recipes with one."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("reference", help="a recipe of params.yaml")
    parser.add_argument("--metric", default="holdout/image_to_text_r1", help="a curve; higher is better")
    arguments = parser.parse_args()
    params = read_yaml(Path("params.yaml"))
    runs: dict[str, Any] = params["runs"]
    references = {run["seed"]: name for name, run in runs.items() if run["recipe"] == arguments.reference}
    result: dict[str, Any] = {"profile": params["profile"], **vars(arguments)}
    for recipe in params["recipes"]:
        rows = [
            factor(name, run["teacher"], references[run["seed"]], arguments.metric)
            for name, run in runs.items()
            if run["recipe"] == recipe != arguments.reference and run["seed"] in references
        ]
        reached = [row for row in rows if row["reached"]]
        if rows:
            medians = {key: statistics.median(row[key] for row in reached) for key in ("factor", "factor_with_cache")}
            result[recipe] = {"runs": rows, **(medians if reached else {})}
    record("compute_to_reach", result)


if __name__ == "__main__":
    main()
