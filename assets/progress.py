"""Progress of a long stage with ETA: a bar on a terminal, sparse lines in a log, messages to Dagster when it listens.

Dagster Pipes passes its address through ``dvc repro`` in the environment; ``dagster_pipes`` is a small package without
dependencies, made for exactly this side of the pipe. Without that address nothing is sent.
"""

import logging
import os
import sys
import time
from types import TracebackType
from typing import Any, Self

from dagster_pipes import DAGSTER_PIPES_CONTEXT_ENV_VAR, PipesContext, open_dagster_pipes
from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_MESSAGES = 5.0


def setup_logging() -> logging.Logger:
    """Send the project's log lines to stderr once and return the project's logger."""
    logger = logging.getLogger("clipfoundry")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    return logger


class Stage:
    """The surroundings of one stage run: its log, its progress, and the pipe to Dagster if there is one.

    Use as a context manager around the whole stage.

    Attributes:
        name: The stage address as DVC spells it, e.g. ``"pretrain@clip-s0"``.
        log: The logger to write to.
        quiet: Whether this process leaves it to another one of the stage to tell how things go.
    """

    def __init__(self, name: str, quiet: bool = False) -> None:
        self.name = name
        self.quiet = quiet
        self.log = setup_logging()
        self._level = self.log.level
        self._pipes: PipesContext | None = None
        self._last_message = 0.0
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        if DAGSTER_PIPES_CONTEXT_ENV_VAR in os.environ and not self.quiet:
            self._pipes = open_dagster_pipes()
        self._started = time.monotonic()
        self._level = self.log.level
        if self.quiet:
            self.log.setLevel(logging.WARNING)
        self.log.info("%s started", self.name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = time.monotonic() - self._started
        self.log.info("%s %s after %.1f s", self.name, "failed" if kind else "done", seconds)
        self.log.setLevel(self._level)
        if self._pipes is not None:
            self._pipes.close()
            self._pipes = None

    @property
    def seconds(self) -> float:
        """Wall-clock seconds since the stage began."""
        return time.monotonic() - self._started

    def send(self, facts: dict[str, Any], force: bool = False) -> None:
        """Send facts (numbers and short strings) to Dagster, at most once every few seconds unless forced."""
        now = time.monotonic()
        if self._pipes is None or (not force and now - self._last_message < _SECONDS_BETWEEN_MESSAGES):
            return
        self._last_message = now
        self._pipes.report_custom_message({"stage": self.name, **facts})

    def progress(self, what: str, total: int, unit: str, initial: int = 0) -> "Progress":
        """Open a progress display.

        Args:
            what: The activity, e.g. ``"train"``.
            total: Number of units in all.
            unit: Name of one unit, e.g. ``"step"``.
            initial: Units already done by an earlier run.
        """
        return Progress(self, what, total, unit, initial)


class Progress:
    """Counts units of work and shows rate and ETA; use as a context manager."""

    def __init__(self, stage: Stage, what: str, total: int, unit: str, initial: int) -> None:
        self._stage = stage
        self._what, self._total, self._unit = what, total, unit
        self._initial = self._done = initial
        self._begin = self._last_line = time.monotonic()
        self._bar: tqdm[Any] | None = None
        if sys.stderr.isatty() and not stage.quiet:
            self._bar = tqdm(total=total, initial=initial, unit=unit, desc=f"{stage.name} {what}", dynamic_ncols=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, units: int = 1, **facts: float | int | str) -> None:
        """Record finished units.

        Args:
            units: How many were finished since the last call.
            **facts: Values worth seeing now, e.g. ``loss=2.31``.
        """
        self._done += units
        now = time.monotonic()
        if self._bar is not None:
            self._bar.set_postfix(facts, refresh=False)
            self._bar.update(units)
        elif now - self._last_line >= _SECONDS_BETWEEN_LINES or self._done >= self._total:
            self._last_line = now
            self._stage.log.info(self._line(facts))
        rate, eta = self._rate_and_eta()
        self._stage.send(
            {
                "activity": self._what,
                "unit": self._unit,
                "done": self._done,
                "total": self._total,
                "per_second": rate,
                "eta_seconds": eta,
                **facts,
            },
            force=self._done >= self._total,
        )

    def _rate_and_eta(self) -> tuple[float, float]:
        seconds = max(time.monotonic() - self._begin, 1e-9)
        rate = (self._done - self._initial) / seconds
        return rate, (self._total - self._done) / rate if rate > 0 else float("inf")

    def _line(self, facts: dict[str, float | int | str]) -> str:
        rate, eta = self._rate_and_eta()
        shown = " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in facts.items())
        share = 100 * self._done / max(self._total, 1)
        return (
            f"{self._stage.name} {self._what} {self._done}/{self._total} {self._unit} ({share:.0f} %), "
            f"{rate:.1f}/s, ETA {eta:.0f} s {shown}".rstrip()
        )
