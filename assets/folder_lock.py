"""One process at a time in a work folder."""

import fcntl
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from assets.errors import DataError, message


@contextmanager
def folder_lock(folder: Path, does: str) -> Generator[None]:
    """Hold the lock of a folder, which is made when missing; it ends with the process, however that ends.

    Args:
        folder: The folder.
        does: What another process that holds it does there, e.g. ``"ingest works in"``.

    Raises:
        DataError: Another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(message(f"another {does} {folder}", fix="wait for it to end")) from error
        yield
