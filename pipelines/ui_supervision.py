"""Starts a process of the UI again when it ends by itself: a run must not be lost because a web server crashed."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from subprocess import Popen
from typing import TYPE_CHECKING

from assets.errors import ConfigError, message

if TYPE_CHECKING:
    from pipelines.ui import Server

_SECONDS_BETWEEN_LOOKS = 0.5


@dataclass(frozen=True, slots=True)
class Endurance:
    """How often a process may end before we give up."""

    deaths: int = 5
    """So many deaths of one process ..."""
    seconds: float = 60.0
    """... within this time are too many."""
    first_pause: float = 1.0
    """Before the first restart; doubled for each further one within that time."""


@dataclass(slots=True)
class Supervisor:
    """Watches the processes of a server.

    Attributes:
        server: Its ``processes`` are replaced when they are started again.
        respawn: Name of a process -> starts it.
        say: Gets one line for each death and each restart.
        endurance: When to give up.
    """

    server: "Server"
    respawn: Mapping[str, Callable[[], "Popen[bytes]"]]
    say: Callable[[str], None] = print
    endurance: Endurance = field(default_factory=Endurance)
    _deaths: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    _due: dict[str, float] = field(default_factory=dict[str, float])

    def look(self, now: float) -> None:
        """Note who has ended, and start again whose pause is over.

        Args:
            now: A monotonic clock, in seconds.

        Raises:
            ConfigError: A process ended too often.
        """
        for name, process in list(self.server.processes.items()):
            if name in self._due:
                if now >= self._due[name]:
                    del self._due[name]
                    self.server.processes[name] = self.respawn[name]()
                    self.say(f"the {name} process runs again")
            elif process.poll() is not None:
                self._note_death(name, process.returncode, now)

    def _note_death(self, name: str, code: int, now: float) -> None:
        recent = [moment for moment in self._deaths.get(name, []) if now - moment < self.endurance.seconds]
        self._deaths[name] = [*recent, now]
        log = self.server.home / f"{name}.log"
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        if len(recent) + 1 >= self.endurance.deaths:
            raise ConfigError(
                message(
                    f"the {name} process {how}, for the {len(recent) + 1}th time"
                    f" within {self.endurance.seconds:g} s: {_last_line(self.server, name)}",
                    fix=f"see {log}",
                )
            )
        pause = self.endurance.first_pause * 2 ** len(recent)
        self._due[name] = now + pause
        self.say(f"the {name} process {how} (see {log}); it starts again in {pause:g} s")


def supervise(
    server: "Server",
    respawn: Mapping[str, Callable[[], "Popen[bytes]"]],
    say: Callable[[str], None] = print,
    endurance: Endurance | None = None,
) -> None:
    """Keep the processes of a server alive until an interrupt.

    Args:
        server: What runs.
        respawn: Name of each of its processes -> starts it anew, on the same port.
        say: Gets one line for each death and each restart.
        endurance: When to give up.

    Raises:
        ConfigError: A process ended too often.
    """
    supervisor = Supervisor(server, respawn, say, endurance or Endurance())
    while True:
        supervisor.look(time.monotonic())
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _last_line(server: "Server", name: str) -> str:
    log = server.home / f"{name}.log"
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.is_file() else []
    return lines[-1] if lines else "it wrote nothing"
