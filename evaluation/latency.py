"""How long a model takes on a CPU: several ways to the same features, timed in turn so that noise meets all of them."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from evaluation.onnx_export import Tower, open_session

ENGINES = ("pytorch", "onnxruntime")
WARM_UPS = 5
CAP_SECONDS = 10.0
"""What the timed passes of one way and batch may take before fewer have to do."""
_FEWEST = 3
_CPU_FACTS = Path("/proc/cpuinfo")

Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds per pass as milliseconds.

    Attributes:
        median_ms: Of all passes.
        lower_quartile_ms: A quarter of the passes took less.
        upper_quartile_ms: A quarter of the passes took more.
        runs: How many passes.
    """

    median_ms: float
    lower_quartile_ms: float
    upper_quartile_ms: float
    runs: int


def interleaved(calls: Mapping[str, Call], runs: int, cap_seconds: float = CAP_SECONDS) -> dict[str, Timing]:
    """Time calls in rounds: each once per round, in an order that turns around, after five warm-ups each.

    Args:
        calls: Name -> what to time.
        runs: Rounds, at least 3.
        cap_seconds: Once the rounds have taken this long per call, they end, though not before there are 3.

    Returns:
        Name -> its timing.
    """
    begin, allowed = time.perf_counter(), cap_seconds * len(calls)
    for _ in range(WARM_UPS):
        for call in calls.values():
            call()
        if time.perf_counter() - begin > allowed:
            break
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    order, begin = list(calls), time.perf_counter()
    for number in range(runs):
        if number >= _FEWEST and time.perf_counter() - begin > allowed:
            break
        for name in order:
            start = time.perf_counter()
            calls[name]()
            seconds[name].append(time.perf_counter() - start)
        order.reverse()
    return {name: _timing(spent) for name, spent in seconds.items()}


def _timing(seconds: list[float]) -> Timing:
    low, median, high = (round(1000 * cut, 4) for cut in statistics.quantiles(seconds, n=4, method="inclusive"))
    return Timing(median, low, high, len(seconds))


def tower_calls(tower: Tower, path: Path, batch_size: int, threads: int) -> dict[str, Call]:
    """Return one pass by each engine over the same random inputs.

    Args:
        tower: The side in PyTorch.
        path: The same as ONNX.
        batch_size: Inputs per pass.
        threads: Of onnxruntime; PyTorch's are set for the process, see :func:`torch_threads`.
    """
    values = tower.random_inputs(batch_size, seed=0)
    session = open_session(path, threads)
    feed = {tower.side: values.numpy()}

    def pytorch() -> object:
        with torch.inference_mode():
            return tower(values)

    return {"pytorch": pytorch, "onnxruntime": lambda: session.run(None, feed)}


@contextmanager
def torch_threads(threads: int) -> Generator[None]:
    """Let PyTorch's CPU kernels use so many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def num_threads(configured: int) -> int:
    """Return the threads of both engines: those configured, or as many as there are cores where that is 0."""
    return configured or os.cpu_count() or 1


def machine_facts(threads: int) -> dict[str, Any]:
    """Return what a latency depends on beside the model.

    Args:
        threads: Of both engines.

    Returns:
        ``cpu``, ``cores``, ``threads``, and the ``load_average`` of the last minute.
    """
    cpu = platform.processor() or platform.machine()
    if _CPU_FACTS.is_file():
        lines = _CPU_FACTS.read_text(encoding="utf-8").splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    return {"cpu": cpu, "cores": os.cpu_count() or 1, "threads": threads, "load_average": round(os.getloadavg()[0], 2)}
