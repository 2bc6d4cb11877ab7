"""Runs a command that must not outlive the process which started it, whatever that process dies of.

The starter keeps the writing end of this script's standard input. When it is closed, by will or by SIGKILL, the whole
process group of the script goes with it. Start it in a session of its own.
"""

import os
import signal
import subprocess
import sys
import threading


def _follow() -> None:
    """Wait for the end of the input, then end this process and all that it has started."""
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGKILL)


def main() -> int:
    """Run the command of the arguments and return its exit code."""
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    threading.Thread(target=_follow, daemon=True).start()
    code = process.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    # not sys.exit: at shutdown the interpreter would wait for the lock that the reading thread holds
    os._exit(main())
