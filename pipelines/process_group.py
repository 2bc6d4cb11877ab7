"""A child process in a session of its own, so that it can be stopped with everything it started.

DVC ignores SIGINT while a stage runs and starts the stage as its child: a signal to DVC alone leaves the trainer behind
with the GPU. Signals therefore go to the whole group.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import psutil

_PATIENCE_AFTER_KILL = 10.0


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds that a stopped stage gets, one after the other."""

    interrupt: float = 120.0
    """After SIGINT: time to write a checkpoint."""
    terminate: float = 20.0
    """After SIGTERM; then comes SIGKILL."""


class ProcessGroup:
    """A running command, its output handed on line by line.

    Attributes:
        pid: Process id, and id of the group.
    """

    def __init__(
        self, command: Sequence[str], cwd: Path, env: Mapping[str, str], on_line: Callable[[str], None]
    ) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._reader = Thread(target=self._read, args=(on_line,), daemon=True)
        self._reader.start()

    def _read(self, on_line: Callable[[str], None]) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            on_line(line)

    def wait(self) -> int:
        """Wait for the command and its output; return the exit code."""
        code = self._process.wait()
        # a grandchild that outlives the command may hold the pipe open for ever
        self._reader.join(timeout=5)
        return code

    def members(self) -> list[int]:
        """Return the ids of the group's live processes."""
        found: list[int] = []
        for process in psutil.process_iter():
            try:
                if os.getpgid(process.pid) == self.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.pid)
            except (ProcessLookupError, PermissionError, psutil.Error):
                continue
        return found

    def stop(self, patience: Patience, log: Callable[[str], None]) -> None:
        """End the whole group: SIGINT, then SIGTERM, then SIGKILL, each only if something still runs.

        Args:
            patience: How long to wait after each.
            log: Gets one line per signal sent.
        """
        for number, seconds in (
            (signal.SIGINT, patience.interrupt),
            (signal.SIGTERM, patience.terminate),
            (signal.SIGKILL, _PATIENCE_AFTER_KILL),
        ):
            members = self.members()
            if not members:
                break
            log(f"sending {number.name} to {len(members)} processes of group {self.pid}, waiting up to {seconds:g} s")
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                break
            if self._gone_within(seconds):
                break
        self._process.poll()
        self._reader.join(timeout=5)

    def _gone_within(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._process.poll()
            if not self.members():
                return True
            time.sleep(0.1)
        return not self.members()
