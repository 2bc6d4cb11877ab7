"""manifest.json: the proof that a folder is finished, and the record of what it was made from.

A folder is complete if and only if it holds ``manifest.json``, which is written last. It carries no time, host or
git commit, so that the same inputs, config and code give the same bytes and DVC sees that nothing changed.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, TypedDict

from assets.atomic import write_json
from assets.errors import DataError, message

MANIFEST = "manifest.json"


class FileFacts(TypedDict):
    """What a manifest says of a file: SHA-256 as 64 hex digits, and length."""

    sha256: str
    bytes: int


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def stream_facts(stream: IO[bytes]) -> FileFacts:
    """Return checksum and size of a file that is open at its begin."""
    digest = hashlib.file_digest(stream, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]
    return {"sha256": digest, "bytes": os.fstat(stream.fileno()).st_size}


def file_facts(path: Path) -> FileFacts:
    """Return checksum and size of a file."""
    with path.open("rb") as stream:
        return stream_facts(stream)


def value_digest(value: Any) -> str:
    """Return 16 hex digits identifying a JSON-serialisable value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_manifest(
    folder: Path,
    kind: str,
    name: str,
    config: Any,
    counts: Mapping[str, int],
    inputs: Mapping[str, str],
    code: str,
    external: Mapping[str, FileFacts] | None = None,
) -> dict[str, Any]:
    """Checksum every file of ``folder`` and write its manifest, which marks the folder as finished.

    Args:
        folder: The complete folder; nothing may be written into it afterwards.
        kind: What the folder is, e.g. ``"raw"``, ``"valid"``, ``"model"``.
        name: Name of the data set or run it belongs to.
        config: The resolved config of the stage, JSON-serialisable.
        counts: Facts a reader wants first, e.g. ``{"samples": 24000, "shards": 12}``.
        inputs: Name of each input folder or file and the version it had (see :func:`version_of`).
        code: Digest of the code that made it (``assets.code_stamp.code_digest``).
        external: Files elsewhere that belong to it, by path relative to the folder or by URL.

    Returns:
        The manifest as written.
    """
    files = {
        path.relative_to(folder).as_posix(): file_facts(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    manifest: dict[str, Any] = {
        "kind": kind,
        "name": name,
        "counts": dict(counts),
        "inputs": dict(inputs),
        "config": config,
        "config_digest": value_digest(config),
        "code": code,
        "files": files,
    }
    if external:
        manifest["external"] = dict(external)
    write_json(folder / MANIFEST, manifest)
    return manifest


def read_manifest(folder: Path, kind: str | None = None) -> dict[str, Any]:
    """Read the manifest of a finished folder.

    Args:
        folder: The folder a stage published.
        kind: What the caller needs it to be; not checked when None.

    Returns:
        The manifest.

    Raises:
        DataError: The folder is missing, unfinished or of another kind.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(
            message(
                f"{folder} has no {MANIFEST}, so it is missing or unfinished",
                fix='run "dvc repro" (or the stage that makes it) first',
            )
        )
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if kind is not None and manifest["kind"] != kind:
        raise DataError(message(f"{folder} is of another kind", manifest["kind"], kind, "pass the right folder"))
    return manifest


def version_of(folder: Path) -> str:
    """Return 16 hex digits naming the content of a finished folder (its manifest lists every checksum)."""
    read_manifest(folder)
    return file_digest(folder / MANIFEST)[:16]


def verify_manifest(folder: Path) -> list[str]:
    """Compare the files of a finished folder with its manifest; external ones are left alone.

    Args:
        folder: The folder a stage published.

    Returns:
        One sentence per file that is missing, extra or damaged; empty when all is well.
    """
    listed: dict[str, dict[str, Any]] = read_manifest(folder)["files"]
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST}
    faults = [f"{name} is missing" for name in sorted(set(listed) - present)]
    faults += [f"{name} is not in the manifest" for name in sorted(present - set(listed))]
    for name in sorted(present & set(listed)):
        if (size := (folder / name).stat().st_size) != listed[name]["bytes"]:
            faults.append(f"{name} has {size} bytes, manifest says {listed[name]['bytes']}")
        elif file_digest(folder / name) != listed[name]["sha256"]:
            faults.append(f"{name} has another checksum than the manifest")
    return faults
