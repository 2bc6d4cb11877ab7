"""Seconds of training, kept over attempts: what a resumed run cost in all, and how much of it was waiting for data."""

import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from assets.atomic import write_json


class TrainClock:
    """Adds up wall-clock seconds; saved beside each checkpoint, so steps redone after a kill are not counted twice."""

    def __init__(self, path: Path, first_step: int) -> None:
        self._path = path
        saved = json.loads(path.read_text(encoding="utf-8")) if first_step and path.exists() else {}
        self._before = float(saved.get("train_seconds", 0.0))
        self._waited = float(saved.get("data_wait_seconds", 0.0))
        self._begin = time.monotonic()

    @contextmanager
    def waiting(self) -> Generator[None]:
        """Count the block as waiting for data."""
        begin = time.monotonic()
        yield
        self._waited += time.monotonic() - begin

    @property
    def train_seconds(self) -> float:
        """Seconds of all attempts, waiting included."""
        return self._before + self.attempt_seconds

    @property
    def attempt_seconds(self) -> float:
        """Seconds of this attempt."""
        return time.monotonic() - self._begin

    @property
    def data_wait_seconds(self) -> float:
        """Seconds of all attempts spent waiting for a batch."""
        return self._waited

    def save(self) -> None:
        """Write both totals."""
        write_json(self._path, {"train_seconds": self.train_seconds, "data_wait_seconds": self.data_wait_seconds})
