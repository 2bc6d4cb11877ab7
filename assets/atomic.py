"""Atomic writes: a reader sees the old file, the new file, or none, never half of one."""

import json
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def fsync_folder(folder: Path) -> None:
    """Flush a folder's own entries, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(path: Path) -> Generator[Path]:
    """Yield a temporary sibling of ``path`` that replaces it when the block ends without an error.

    Args:
        path: The final place; its folder is made when missing.

    Yields:
        The temporary path to write to. It is removed when the block raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
        fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 to ``path`` atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON with sorted keys and a final newline, atomically and byte-stable."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


@contextmanager
def atomic_folder(path: Path, keep_partial: bool = False) -> Generator[Path]:
    """Yield ``<path>.partial`` that replaces ``path`` when the block ends without an error.

    Args:
        path: The final folder. What stood there is removed only once the new one is complete.
        keep_partial: Start from an existing partial folder (to resume) instead of an empty one.

    Yields:
        The partial folder. It stays behind when the block raises, for a resume or a look.
    """
    partial = path.with_name(f"{path.name}.partial")
    if partial.exists() and not keep_partial:
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    yield partial
    publish_folder(partial, path)


def publish_folder(source: Path, target: Path) -> None:
    """Put the finished folder ``source`` in the place of ``target`` by renames on one file system.

    Args:
        source: A complete folder; it no longer exists afterwards.
        target: The place to take; a folder standing there is moved aside first and then removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    old = target.with_name(f".{target.name}.old")
    if old.exists():
        shutil.rmtree(old)
    if target.exists():
        target.rename(old)
    source.rename(target)
    fsync_folder(target.parent)
    if old.exists():
        shutil.rmtree(old)
