"""Measure what a teacher costs per step: its features out of a cache against running it, on the same views.

Run ``python benchmarks/teacher_cache.py`` in the root of a project that has made the data and the teacher vit-s0 of the
profile ``distill``; it writes benchmarks/results/teacher_cache.json. Two students of that teacher take real steps on
real pairs: one with the features of the cache, one that runs the teacher on the very same batch. They take turns step
by step, and a ratio is the median of the steps' own ratios. CPU time is the figure to compare on a busy machine.
Loading (reading, cropping, tokens, rows of the cache) is shared and told apart. Both start alike and see the same
views, so their loss curves must agree to what the cache's half precision leaves.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from record import record

from assets.config import MachineConfig
from training.config import load_recipe
from training.data.loader import StepDataset, ViewPlan
from training.data.order import SampleOrder
from training.data.pairs import load_pairs
from training.engine.clock import TrainClock
from training.engine.distributed import World
from training.engine.flops import FlopsProbe
from training.engine.step import Stepper
from training.lineage import teacher_source
from training.models.build import build_method, build_tokenizer, image_size
from training.models.dense_export import load_dense
from training.teachers.package import read_package
from training.teachers.replay import Replay
from training.teachers.rows import TeacherRows
from training.teachers.source import TEACHER_FEATURES

CPU = torch.device("cpu")
BAR = 1.5
"""Least ratio of samples per second, cached over online."""
TOLERANCE = 1e-2
"""Largest difference of the two loss curves, relative to the loss."""


class Student:
    """A student ready to step, and what its steps took and lost."""

    def __init__(self, recipe_name: str, params: Path, package: Any, online: bool, threads: int) -> None:
        recipe = load_recipe(params, recipe_name)
        source = teacher_source(package, online)
        method, self.config = build_method(recipe, 0, None, load_dense(package.models[0].folder), source)
        self.recipe, self.method, self.online = recipe, method, online
        self.probe = FlopsProbe(method)
        machine = MachineConfig(workers=0, threads=threads, device="cpu", tensorboard=False)
        self.stepper = Stepper(method, recipe, machine, World(0, 1, CPU), 0)
        self.clock = TrainClock({}, CPU)
        self.seconds: list[tuple[float, float]] = []
        self.losses: list[float] = []

    def step(self, batch: dict[str, torch.Tensor], number: int) -> None:
        """Take a step, without the cache's features where the teacher is run."""
        if self.online:
            batch = {name: value for name, value in batch.items() if name not in TEACHER_FEATURES}
        wall, cpu = time.perf_counter(), time.process_time()
        result = self.stepper.step(batch, number, self.clock)
        self.seconds.append((time.perf_counter() - wall, time.process_time() - cpu))
        self.losses.append(result.values["affinity_loss"])


def measure(recipe: str, arguments: argparse.Namespace, package: Any) -> dict[str, Any]:
    """Take the steps of one recipe both ways."""
    cached, online = (Student(recipe, arguments.params, package, way, arguments.threads) for way in (False, True))
    pairs = load_pairs(Path("data/raw/emoji"), Path("data/valid/emoji"))
    plan = ViewPlan(
        cached.method.needs().views,
        build_tokenizer(cached.config),
        image_size(cached.config),
        seed=0,
        trim=cached.method.accepts_short_text,
        replay=Replay(TeacherRows(package), package.cache.seed),
    )
    batch_size = cached.recipe.budget.batch_size
    dataset = StepDataset(pairs, SampleOrder(len(pairs), batch_size, 0), plan)
    loading: list[tuple[float, float]] = []
    flops = {name: way.probe.count(dataset[0]) for name, way in (("cached", cached), ("online", online))}
    for number in range(arguments.steps + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        batch = dataset[number]
        loading.append((time.perf_counter() - wall, time.process_time() - cpu))
        for student in (cached, online) if number % 2 else (online, cached):
            student.step(batch, number)
    # the first step allocates
    rows = list(zip(loading[1:], cached.seconds[1:], online.seconds[1:], strict=True))
    result: dict[str, Any] = {"batch_size": batch_size, "steps": arguments.steps}
    for column, clock in enumerate(("wall", "cpu")):
        result[f"steps_{clock}"] = round(statistics.median(o[column] / c[column] for _, c, o in rows), 2)
        ratios = [(load[column] + o[column]) / (load[column] + c[column]) for load, c, o in rows]
        result[f"with_loading_{clock}"] = round(statistics.median(ratios), 2)
        result[f"loading_share_{clock}"] = round(
            statistics.median(load[column] / (load[column] + c[column]) for load, c, _ in rows), 3
        )
    result["operations"] = round(flops["online"] / flops["cached"], 2)
    result["cached_samples_per_second"] = round(
        batch_size / statistics.median(c[0] + load[0] for load, c, _ in rows), 1
    )
    differences = [abs(one - other) / other for one, other in zip(cached.losses, online.losses, strict=True)]
    result["largest_loss_difference"] = round(max(differences), 6)
    result["curves_agree"] = max(differences) < TOLERANCE
    result["bar"] = {"cached_over_online": BAR, "met": result["with_loading_cpu"] >= BAR}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--params", type=Path, default=Path("profiles/distill.yaml"))
    parser.add_argument("--teacher", type=Path, default=Path("data/teachers/vit-s0"))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    package = read_package(arguments.teacher)
    recipes = ("distill_affinity", "distill_at_once")
    record("teacher_cache", {recipe: measure(recipe, arguments, package) for recipe in recipes})


if __name__ == "__main__":
    main()
