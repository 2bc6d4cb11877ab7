"""What lies in a folder: every file that can be read, and by reason how many cannot or should not be.

Nothing is opened. Links to folders are not followed, so no loop can catch the walk; nor are links out of the folder.
"""

import os
import stat
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from assets.errors import DataError, message
from assets.progress import setup_logging

HIDDEN = "hidden (the name begins with a dot)"
LOST_LINK = "links that lead nowhere"
OUTSIDE_LINK = "links that lead out of the folder"
FOLDER_LINK = "links to folders"
UNREADABLE = "no permission to read them"
SPECIAL = "neither files nor folders"
SUBFOLDER = "folders in it, because recursive is false"
_READABLE_BY_ALL = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH
_SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True, slots=True)
class Files:
    """What the walk has found.

    Attributes:
        sizes: Path relative to the folder, with slashes -> bytes.
        left_out: Reason -> number of entries that are not in ``sizes``.
    """

    sizes: dict[str, int] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter[str])


def list_files(folder: Path, recursive: bool) -> Files:
    """Walk over a folder.

    Args:
        folder: Where to begin; may be a link itself.
        recursive: Whether to enter the folders in it.

    Raises:
        DataError: The folder, or one in it, cannot be listed.
    """
    root = os.path.realpath(folder)
    files = Files()
    todo = [""]
    said = time.monotonic()
    while todo:
        inside = todo.pop()
        for entry in _entries(root, inside):
            path = inside + entry.name
            if entry.name.startswith("."):
                files.left_out[HIDDEN] += 1
            elif not entry.is_dir(follow_symlinks=False):
                _take(root, path, entry, files)
            elif recursive:
                todo.append(f"{path}/")
            else:
                files.left_out[SUBFOLDER] += 1
        if time.monotonic() - said > _SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            setup_logging().info("listing %s: %d files so far", folder, len(files.sizes))
    return files


def _entries(root: str, inside: str) -> Iterator[os.DirEntry[str]]:
    place = os.path.join(root, inside)  # noqa: PTH118 - a Path per folder entry would double the cost of the walk
    try:
        with os.scandir(place) as entries:
            yield from entries
    except OSError as error:
        fix = "mend its permissions, or move it out of the folder"
        raise DataError(message(f"{place} cannot be listed ({error.strerror})", fix=fix)) from error


def _take(root: str, path: str, entry: os.DirEntry[str], files: Files) -> None:
    """Note the size of one entry that is no folder, or why it is left out."""
    if entry.is_symlink() and (fault := _fault_of_link(root, entry.path)):
        files.left_out[fault] += 1
        return
    try:
        facts = entry.stat()
    except PermissionError:  # the folder may be listed, but not entered
        files.left_out[UNREADABLE] += 1
        return
    except OSError as error:
        raise DataError(
            message(f"{entry.path} vanished while listed ({error.strerror})", fix="run it again")
        ) from error
    if not stat.S_ISREG(facts.st_mode):
        files.left_out[SPECIAL] += 1
    elif facts.st_mode & _READABLE_BY_ALL != _READABLE_BY_ALL and not os.access(entry.path, os.R_OK):
        files.left_out[UNREADABLE] += 1
    else:
        files.sizes[path] = facts.st_size


def _fault_of_link(root: str, place: str) -> str | None:
    try:
        target = os.path.realpath(place, strict=True)
    except OSError:
        return LOST_LINK
    if Path(target).is_dir():
        return FOLDER_LINK
    return None if target.startswith(root.rstrip("/") + "/") else OUTSIDE_LINK
