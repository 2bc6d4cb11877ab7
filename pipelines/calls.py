"""How commands call git and DVC, and the one way they speak to the person at the terminal."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from assets.errors import DataError, message


def say(text: str) -> None:
    """Print one line of the command's own progress to stderr."""
    print(f"clipfoundry: {text}", file=sys.stderr, flush=True)


def _git(root: Path, arguments: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    command = ["git", *arguments]
    return subprocess.run(
        command, cwd=root, env=os.environ | {"LC_ALL": "C"}, capture_output=True, text=True, check=False
    )


def git(root: Path, *arguments: str) -> str:
    """Run git in a project.

    Returns:
        What it printed.

    Raises:
        DataError: It failed; carries its own words.
    """
    done = _git(root, arguments)
    if done.returncode:
        reason = " ".join((done.stderr or done.stdout).split())
        raise DataError(message(f"git {arguments[0]} failed in {root.resolve()}: {reason}", fix="mend that and rerun"))
    return done.stdout


def ask_git(root: Path, *arguments: str) -> str | None:
    """Return what git answers without its last line break, or None where it says no."""
    done = _git(root, arguments)
    return None if done.returncode else done.stdout.rstrip("\n")


def try_dvc(root: Path, *arguments: str) -> int:
    """Run DVC in a project, its output going where ours goes, and return its exit code."""
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]
    # the stages of dvc.yaml say "python": it must be the one with our packages, activated or not
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    env = os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1"}
    return subprocess.run(command, cwd=root, env=env, check=False).returncode


def dvc(root: Path, *arguments: str) -> None:
    """Run DVC in a project.

    Raises:
        DataError: It failed.
    """
    if code := try_dvc(root, *arguments):
        raise DataError(
            message(
                f'"dvc {" ".join(arguments)}" failed with exit code {code}', fix="mend what is said above and rerun"
            )
        )
