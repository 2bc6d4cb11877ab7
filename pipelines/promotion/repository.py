"""The state of the git repository that a promotion needs, and the one commit that it makes.

A champion is only worth its tag when the commit under the tag made it. So code and parameters must be committed;
what stages and promotions themselves write (dvc.lock, batches, champions, the .dvc files) goes into our own commit.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from assets.errors import ConfigError, DataError, message
from pipelines.calls import ask_git, git

_OURS = re.compile(r"dvc\.lock|(batches|champions)/.+|models/[^/]+\.dvc")
_MOST_NAMED = 5


def check_git(root: Path, ours: Sequence[str]) -> None:
    """Refuse a repository in which a promotion could not be committed or would not be true.

    Args:
        root: The project.
        ours: Paths that the promotion writes and commits.

    Raises:
        ConfigError: No git repository, no commit, a detached HEAD, a merge that goes on, nobody to sign the commit, or
            an ignored path.
        DataError: Tracked files differ from the last commit.
    """
    if ask_git(root, "rev-parse", "--show-toplevel") is None:
        raise ConfigError(message(f"{root.resolve()} is no git repository", fix="run inside your clone"))
    if ask_git(root, "rev-parse", "-q", "--verify", "HEAD") is None:
        raise ConfigError(message("this git repository has no commit", fix="commit the project first"))
    if ask_git(root, "symbolic-ref", "-q", "HEAD") is None:
        raise ConfigError(
            message(
                "HEAD is detached, so the commit of a champion would be on no branch",
                fix='"git switch BRANCH" first (after a rebase: end it)',
            )
        )
    if ask_git(root, "rev-parse", "-q", "--verify", "MERGE_HEAD") is not None:
        raise ConfigError(message("a merge is going on", fix='end it with "git commit" or "git merge --abort"'))
    for who in ("GIT_AUTHOR_IDENT", "GIT_COMMITTER_IDENT"):
        # without useConfigOnly git makes up a name out of those of the user and the machine
        if ask_git(root, "-c", "user.useConfigOnly=true", "var", who) is None:
            raise ConfigError(
                message(
                    "git does not know who you are, and a promotion is a commit",
                    fix='"git config user.name NAME" and "git config user.email ADDRESS"',
                )
            )
    for path in ours:
        if ask_git(root, "check-ignore", "-q", path) is not None and not ask_git(root, "ls-files", "--", path):
            raise ConfigError(message(f"git ignores {path}", fix=f'add the line "!/{path}" to .gitignore'))
    if changed := [path for path in changed_files(root) if not _OURS.fullmatch(path)]:
        more = f" and {len(changed) - _MOST_NAMED} more" if len(changed) > _MOST_NAMED else ""
        raise DataError(
            message(
                f"not committed: {', '.join(changed[:_MOST_NAMED])}{more}; a champion names the commit that made it",
                fix="commit or stash this, run the pipeline again if it changes results, then promote",
            )
        )


def changed_files(root: Path) -> list[str]:
    """Return the files of the last commit that differ in the index or on disk, relative to the project."""
    prefix = ask_git(root, "rev-parse", "--show-prefix") or ""
    words = git(root, "diff", "--name-only", "--no-renames", "--diff-filter=a", "-z", "HEAD", "--", ".").split("\0")
    return [word.removeprefix(prefix) for word in words if word]


def head(root: Path) -> str:
    """Return the present commit as 40 hex digits."""
    return git(root, "rev-parse", "HEAD").strip()


def commit_only(root: Path, text: str, paths: Sequence[str], record: str) -> str:
    """Commit exactly these paths, unless that was done; whatever else is staged stays staged.

    Args:
        root: The project.
        text: The commit message.
        paths: Files and folders; those that do not exist and never did are left out.
        record: The path that tells this commit from any other: the last commit that changed it is ours, and
            it is made when the index and HEAD have the same.

    Returns:
        The commit that holds them.
    """
    paths = [path for path in paths if (root / path).exists() or ask_git(root, "ls-tree", "HEAD", "--", path)]
    git(root, "add", "--", *paths)
    known = [p for p in paths if ask_git(root, "ls-files", "--", p) or ask_git(root, "ls-tree", "HEAD", "--", p)]
    if ask_git(root, "diff", "--cached", "--quiet", "HEAD", "--", record) is None:
        git(root, "commit", "--quiet", "--only", "-m", text, "--", *known)
    return git(root, "log", "-1", "--format=%H", "--", record).strip()
