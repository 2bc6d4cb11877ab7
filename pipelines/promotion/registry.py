"""The model registry in git tags, in the form that GTO reads: ``gto show`` lists versions and the one in production.

``champion@v2.0.0`` registers a version, ``champion#production#3`` puts one into production; the number at the end
counts everything that happened to the champion. Tags are annotated with the reason and never moved or removed.
"""

import re
from pathlib import Path

from assets.errors import ConfigError, DataError, message
from pipelines.calls import ask_git, git

STAGE = "production"
_NAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9_-]*[a-zA-Z0-9])?")


def check_name(name: str) -> None:
    """Refuse a champion's name that GTO would not take for a model.

    Raises:
        ConfigError: It is one.
    """
    if not _NAME.fullmatch(name):
        wanted = "letters, digits, _ and -, first and last a letter or digit, for it becomes part of git tags"
        raise ConfigError(message("promotions: wrong name", name, wanted, "rename it in params.yaml"))


def version_label(version: int) -> str:
    """Return a version as tags and prefixes spell it, e.g. ``v2.0.0``."""
    return f"v{version}.0.0"


def version_tag(name: str, version: int) -> str:
    """Return the tag that registers a version, e.g. ``champion@v2.0.0``."""
    return f"{name}@{version_label(version)}"


def next_stage_tag(root: Path, name: str) -> str:
    """Return the tag that will put a version into production, e.g. ``champion#production#3``."""
    counted = re.compile(rf"{re.escape(name)}[#@][^#]+#(\d+)")
    found = [counted.fullmatch(tag) for tag in git(root, "tag", "--list").split()]
    return f"{name}#{STAGE}#{max((int(match[1]) for match in found if match), default=0) + 1}"


def commit_of(root: Path, tag: str) -> str | None:
    """Return the commit that a tag names, or None where there is no such tag."""
    return ask_git(root, "rev-parse", "-q", "--verify", f"refs/tags/{tag}^{{commit}}")


def check_free(root: Path, tag: str, record: str) -> None:
    """Refuse to go on where a version is registered that our history does not know.

    Args:
        root: The project.
        tag: The tag that we are going to make.
        record: The file with the history.

    Raises:
        DataError: The tag exists.
    """
    if (commit := commit_of(root, tag)) is not None:
        raise DataError(
            message(
                f"the tag {tag} exists at {commit[:12]}, but {record} has no such version",
                fix="merge the branch that holds that commit, then promote",
            )
        )


def ensure_tag(root: Path, tag: str, commit: str, text: str) -> None:
    """Make an annotated tag, unless it is there already.

    Args:
        root: The project.
        tag: Its name.
        commit: The commit to tag.
        text: Why.

    Raises:
        DataError: The tag names another commit.
    """
    found = commit_of(root, tag)
    if found is None:
        git(root, "tag", "--annotate", "--cleanup=verbatim", "-m", text, tag, commit)
    elif found != commit:
        raise DataError(
            message(f"the tag {tag} names another commit", found[:12], commit[:12], "tags are not moved: see git log")
        )


def push_line(root: Path, tags: list[str]) -> str:
    """Return the command that shares branch and tags; running it is up to the user."""
    branch = ask_git(root, "symbolic-ref", "-q", "--short", "HEAD") or "HEAD"
    remotes = (ask_git(root, "remote") or "").split()
    remote = ask_git(root, "config", f"branch.{branch}.remote") or (remotes[0] if remotes else "origin")
    return f"git push {remote} {branch} {' '.join(repr(tag) for tag in tags)}"
