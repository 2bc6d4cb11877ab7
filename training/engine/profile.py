"""``--profile``: what the first steps spend their time on, as a trace for a timeline viewer and a table in the log."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from assets.atomic import atomic_file
from assets.progress import Stage

_SKIPPED, _WARMUP, _TRACED = 2, 1, 3
_ROWS = 12


@contextmanager
def traced_steps(path: Path | None, stage: Stage) -> Generator[Callable[[], None]]:
    """Trace three steps after three others.

    Args:
        path: The trace (Chrome's JSON format: chrome://tracing, ui.perfetto.dev); None traces nothing.
        stage: Its log gets the costliest operators.

    Yields:
        A function to call after every step.
    """
    if path is None:
        yield lambda: None
        return

    def ready(profiler: profile) -> None:
        with atomic_file(path) as temporary:
            profiler.export_chrome_trace(str(temporary))
        table = profiler.key_averages().table(sort_by=f"self_{unit}_time_total", row_limit=_ROWS)
        stage.log.info("%d steps traced into %s; open it at ui.perfetto.dev\n%s", _TRACED, path, table)

    unit = "cuda" if torch.cuda.is_available() else "cpu"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if unit == "cuda" else [])]
    steps = schedule(wait=_SKIPPED, warmup=_WARMUP, active=_TRACED, repeat=1)
    with profile(activities=activities, schedule=steps, on_trace_ready=ready, profile_memory=True) as profiler:
        yield profiler.step
