"""Where the seconds of training go: by phase within a step, and in all over every attempt of a run."""

import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager

import torch

PHASES: tuple[str, ...] = (
    "data",
    "forward",
    "backward",
    "optimizer",
    "checkpoint",
    "holdout",
    "embed",
    "episode",
    "log",
)
"""Parts of the wall-clock time that are told apart; what is left is the loop's own."""


class TrainClock:
    """Adds up wall-clock seconds; saved with each checkpoint, so steps redone after a kill are not counted twice.

    On a GPU ``forward`` and ``backward`` end when the device has finished, not when the work has been queued: the clock
    reads events that the device passes, at the one point of a step where the loop waits for it anyway.
    """

    def __init__(self, saved: Mapping[str, float], device: torch.device) -> None:
        """Start.

        Args:
            saved: What :meth:`totals` gave at the checkpoint, empty for a new run.
            device: Where the method runs.
        """
        self._before = dict(saved)
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._open: list[str] = []
        self._begin = time.monotonic()
        self._cuda = device.type == "cuda"
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def phase(self, name: str, on_device: bool = False) -> Generator[None]:
        """Count the block; seconds of a phase inside another one are those of the inner phase only.

        Args:
            name: One of ``PHASES``.
            on_device: The block queues work on a GPU, if there is one.
        """
        if on_device and self._cuda:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            yield
            end.record()
            self._events.append((name, begin, end))
            return
        self._open.append(name)
        start = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - start
            self._open.pop()
            self._seconds[name] += seconds
            if self._open:
                self._seconds[self._open[-1]] -= seconds

    def collect(self) -> None:
        """Read the events of this step; the device must have passed them."""
        for name, begin, end in self._events:
            self._seconds[name] += begin.elapsed_time(end) / 1000
        self._events.clear()

    @property
    def attempt_seconds(self) -> float:
        """Seconds of this attempt."""
        return time.monotonic() - self._begin

    def totals(self) -> dict[str, float]:
        """Return the seconds of all attempts: ``train_seconds`` and ``PHASE_seconds`` for every phase."""
        now = {"train_seconds": self.attempt_seconds, **{f"{name}_seconds": s for name, s in self._seconds.items()}}
        return {name: seconds + self._before.get(name, 0.0) for name, seconds in now.items()}

    @property
    def data_wait_share(self) -> float:
        """Share of all seconds that was spent waiting for a batch."""
        totals = self.totals()
        return totals["data_seconds"] / max(totals["train_seconds"], 1e-9)
