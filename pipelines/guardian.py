"""Runs a command and ends it, with all it started, when the process that asked for it is gone.

A step that is killed cannot stop its stage any more: DVC and the trainer would go on unwatched, with the GPU. So
``process_group.py`` starts this file between itself and the command. It imports nothing of ours and only light parts of
the standard library, because it starts before every call of DVC.

Usage: guardian.py LIFE OUTPUT PARENT INTERRUPT TERMINATE COMMAND...

- LIFE: the reading end of a pipe whose writing end only the parent has; its end says that the parent is gone.
- OUTPUT: the reading end of the pipe that the command writes to. Once the parent is gone we read it, so that a trainer
  that saves its work is not ended by its own messages.
- PARENT: process id of the parent, for a parent whose pipe somebody else holds open.
- INTERRUPT, TERMINATE: seconds that the command gets after SIGINT and after SIGTERM.

The exit code is that of the command, and 128 + N where signal N ended it; a guardian that was itself killed ends with
the signal, so the two can be told apart.
"""

import os
import select
import signal
import sys
import time
from contextlib import suppress
from types import FrameType

_SECONDS_BETWEEN_LOOKS = 0.5
_NOT_FOUND = 127


def _hear(number: int, frame: FrameType | None) -> None:
    """Take a signal that is meant for the whole group: it ends the command, and then we end too."""


def start(command: list[str]) -> int:
    """Start the command in our own group; return its process id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"error: {command[0]} cannot be started: {error}\n".encode())
    os._exit(_NOT_FOUND)


def ended(child: int) -> int | None:
    """Return the exit code of the command, or None while it runs."""
    pid, status = os.waitpid(child, os.WNOHANG)
    if not pid:
        return None
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def watch(child: int, life: int, parent: int) -> int | None:
    """Wait for the end of the command or of the parent.

    Returns:
        The exit code, or None when the parent is gone and the command still runs.
    """
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    # the end of the command writes a byte here, so that it is noticed at once
    signal.set_wakeup_fd(wake)
    poll = select.poll()
    poll.register(life, select.POLLIN)
    poll.register(woken, select.POLLIN)
    while True:
        if (code := ended(child)) is not None:
            return code
        events = dict(poll.poll(_SECONDS_BETWEEN_LOOKS * 1000))
        if life in events or os.getppid() != parent:
            signal.set_wakeup_fd(-1)
            return ended(child)
        if woken in events:
            os.read(woken, 4096)


def others(child: int) -> bool:
    """Say whether anything but us still lives in our group; where there is no /proc, whether the command does."""
    try:
        entries = os.listdir("/proc")  # noqa: PTH208 - importing pathlib takes as long as all the rest
    except FileNotFoundError:
        return _lives(child)
    own, group = os.getpid(), os.getpgid(0)
    return any(_in_group(entry, group) for entry in entries if entry.isdecimal() and int(entry) != own)


def _in_group(entry: str, group: int) -> bool:
    try:
        with open(f"/proc/{entry}/stat", errors="replace") as file:  # noqa: PTH123 - as above
            # the name, in brackets, may hold anything
            state, _, own_group = file.read().rpartition(")")[2].split()[:3]
    except OSError:
        return False
    return int(own_group) == group and state not in ("Z", "X")


def _lives(child: int) -> bool:
    try:
        os.kill(child, 0)
    except ProcessLookupError:
        return False
    return True


def end_group(child: int, output: int, patience: list[float]) -> None:
    """Send SIGINT, then SIGTERM, then SIGKILL to our group, each only if something still runs."""
    os.set_blocking(output, False)
    for number, seconds in zip((signal.SIGINT, signal.SIGTERM), patience, strict=True):
        os.killpg(0, number)
        until = time.monotonic() + seconds
        while others(child):
            if time.monotonic() >= until:
                break
            _drain(output)
            with suppress(ChildProcessError):
                os.waitpid(child, os.WNOHANG)
            time.sleep(0.1)
        else:
            return
    os.killpg(0, signal.SIGKILL)


def _drain(output: int) -> None:
    with suppress(BlockingIOError):
        while os.read(output, 1 << 16):
            pass


def main(arguments: list[str]) -> int:
    """Guard one command; see the top of this file."""
    life, output, parent = (int(text) for text in arguments[:3])
    patience = [float(text) for text in arguments[3:5]]
    for descriptor in (life, output):
        os.set_inheritable(descriptor, False)
    # handlers, not SIG_IGN: an ignored signal would stay ignored in the command
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, _hear)
    child = start(arguments[5:])
    code = watch(child, life, parent)
    if code is not None:
        return code
    end_group(child, output, patience)
    return 128 + signal.SIGTERM


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
