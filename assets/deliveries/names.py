"""The names a delivery may have: the prefix that batches arrive under, a batch, a tar in it."""

import re

MANIFEST = "manifest.json"
MOST_BATCH_BYTES = 23
_SEGMENT = re.compile(r"[A-Za-z0-9_.-]+")
# with the tar's number it stands before a key of up to 64 bytes, and that in a tar header of 100; keys have no dots
_BATCH = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{MOST_BATCH_BYTES - 1}}}")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.tar")


def prefix_fault(prefix: str) -> str | None:
    """Say what is wrong with a prefix.

    Args:
        prefix: Begin of the names of all objects of a split's deliveries, within the store's bucket.

    Returns:
        What is wanted instead, or None when it is right.
    """
    if prefix.startswith("/") or not prefix.endswith("/"):
        return "wanted folders in the store's bucket, without a slash in front and with one at the end: incoming/mine/"
    for segment in prefix[:-1].split("/"):
        if not _SEGMENT.fullmatch(segment) or set(segment) == {"."}:
            return "wanted folder names of letters, digits, _, - and . with single slashes between them: incoming/mine/"
    return None


def batch_fault(name: str) -> str | None:
    """Say what is wrong with the name of a batch, as :func:`prefix_fault`."""
    if _BATCH.fullmatch(name):
        return None
    return f"wanted at most {MOST_BATCH_BYTES} letters, digits, _ and - as the name of a batch: 2026-11-28"


def file_fault(name: str) -> str | None:
    """Say what is wrong with the name of a file that a manifest lists, as :func:`prefix_fault`."""
    return (
        None if _FILE.fullmatch(name) else "wanted names of letters, digits, _, - and . that end with .tar: 00000.tar"
    )
