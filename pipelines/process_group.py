"""A child process in a session of its own, so that it can be stopped with everything it started.

DVC ignores SIGINT while a stage runs and starts the stage as its child: a signal to DVC alone leaves the trainer behind
with the GPU. Signals therefore go to the whole group. Should we be killed ourselves, ``guardian.py`` sends them, which
stands between us and the command.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import psutil

_PATIENCE_AFTER_KILL = 10.0
_GUARDIAN = Path(__file__).with_name("guardian.py")


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds that a stopped stage gets, one after the other."""

    interrupt: float = 120.0
    """After SIGINT: time to write a checkpoint."""
    terminate: float = 20.0
    """After SIGTERM; then comes SIGKILL."""


class ProcessGroup:
    """A running command, its output handed on line by line.

    Args:
        command: Program and arguments.
        cwd: Its folder.
        env: Its whole environment.
        on_line: Gets each line of its output.
        patience: How long it may take to end when we are gone.

    Attributes:
        pid: Process id of the guardian, and id of the group.
    """

    def __init__(
        self,
        command: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        on_line: Callable[[str], None],
        patience: Patience | None = None,
    ) -> None:
        self._patience = patience = patience or Patience()
        life, self._alive = os.pipe()
        output, written = os.pipe()
        times = (str(patience.interrupt), str(patience.terminate))
        # -I -S: neither our packages nor the folder of the file; the command has the full environment all the same
        guardian = [sys.executable, "-I", "-S", str(_GUARDIAN), str(life), str(output), str(os.getpid()), *times]
        try:
            self._process = subprocess.Popen(
                [*guardian, *command],
                cwd=cwd,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(life, output),
            )
        except BaseException:
            os.close(output)
            os.close(self._alive)
            raise
        finally:
            os.close(written)
            os.close(life)
        self.pid = self._process.pid
        self._reader = Thread(target=self._read, args=(output, on_line), daemon=True)
        self._reader.start()

    def _read(self, output: int, on_line: Callable[[str], None]) -> None:
        with os.fdopen(output, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                on_line(line)

    def poll(self, seconds: float) -> int | None:
        """Wait a while for the command and its output.

        Args:
            seconds: The longest wait.

        Returns:
            The exit code, 128 + N where signal N ended the command; None while it runs.
        """
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        if code < 0 and self.members():
            # the guardian was killed, and what it guarded goes on
            self.stop(self._patience, lambda _: None)
        # a grandchild that outlives the command may hold the pipe open for ever
        self._reader.join(timeout=5)
        self._let_go()
        return code if code >= 0 else 128 - code

    def wait(self) -> int:
        """Wait for the command and its output; return the exit code as :meth:`poll` does."""
        while (code := self.poll(60.0)) is None:
            pass
        return code

    def _let_go(self) -> None:
        if self._alive >= 0:
            os.close(self._alive)
            self._alive = -1

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
        self._let_go()

    def _gone_within(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._process.poll()
            if not self.members():
                return True
            time.sleep(0.1)
        return not self.members()
