"""Tags that say what a run worked on: the git commit and the profile of params.yaml."""

import subprocess
from pathlib import Path

from dagster import AssetExecutionContext

from assets.section import read_yaml
from pipelines.dvc_project import PARAMS

GIT_COMMIT, PROFILE = "git/commit", "clipfoundry/profile"
_SECONDS_FOR_GIT = 20.0


def tag_run(context: AssetExecutionContext, root: Path) -> None:
    """Write the tags on the run, at its first step; later steps, and steps outside a stored run, change nothing.

    Args:
        context: The running step.
        root: The project.
    """
    stored = context.instance.get_run_by_id(context.run.run_id)
    if stored is not None and GIT_COMMIT not in stored.tags:
        context.instance.add_run_tags(context.run.run_id, run_tags(root))


def run_tags(root: Path) -> dict[str, str]:
    """Return the tags of a run that starts now.

    Args:
        root: The project.

    Returns:
        ``git/commit``: the short hash, with ``-dirty`` when tracked files differ from it, or ``none`` where there is
        no commit; ``clipfoundry/profile``: its name, where params.yaml has one.
    """
    tags = {GIT_COMMIT: _git_commit(root)}
    params = read_yaml(root / PARAMS) if (root / PARAMS).is_file() else {}
    if isinstance(name := params.get("profile"), str):
        tags[PROFILE] = name
    return tags


def _git_commit(root: Path) -> str:
    # without the pattern a version tag would stand in place of the hash
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=_SECONDS_FOR_GIT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "none"
    return done.stdout.strip() or "none"
