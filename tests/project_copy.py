"""The project's own graph and code in a repository of its own, for tests that run real stages."""

import shutil
import subprocess
import sys
from pathlib import Path

from pipelines.dvc_command import stage_environment

REPOSITORY = Path(__file__).resolve().parents[1]
_NOT_NEEDED = ("tests", "docs", "benchmarks", "dvc.lock", "params.yaml")


def copy_project(folder: Path) -> Path:
    """Copy the working tree's files without params.yaml into a git repository that has no commit yet."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in sorted(set(listed)):
        if name and name.split("/")[0] not in _NOT_NEEDED and (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return folder


def run(folder: Path, *command: str) -> str:
    """Run a command that must succeed, as stages are run, and return what it printed."""
    done = subprocess.run(command, cwd=folder, env=stage_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def dvc(folder: Path, *arguments: str) -> str:
    """Run DVC, which must succeed."""
    return run(folder, sys.executable, "-m", "dvc", *arguments)
