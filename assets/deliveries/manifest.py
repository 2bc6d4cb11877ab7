"""The manifest that closes a batch: which files belong to it, with their sizes and checksums.

It is the last object of a batch to arrive, so a batch with a manifest whose files are all there is whole. Producers may
put further keys into it; they are not read.
"""

import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from assets.deliveries.names import file_fault
from assets.errors import DataError


class ManifestFile(BaseModel):
    """One tar of a batch."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", use_attribute_docstrings=True)

    name: str
    """Its name in the folder of the batch, e.g. ``00000.tar``."""
    bytes: int = Field(ge=1)
    """Length."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Checksum."""
    md5: str | None = Field(default=None, pattern=r"^[0-9a-f]{32}$")
    """MD5; lets the consumer compare an object uploaded in one piece without reading it."""


class Manifest(BaseModel):
    """What ``manifest.json`` of a batch says."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", use_attribute_docstrings=True)

    batch: str
    """Name of the batch, which is that of its folder."""
    files: tuple[ManifestFile, ...] = Field(min_length=1)
    """Its tars, in the order in which their samples are to stand."""
    pairs: int | None = Field(default=None, ge=0)
    """Number of pairs in all, for people."""


def parse_manifest(content: bytes, batch: str) -> Manifest:
    """Check the content of a manifest.

    Args:
        content: The bytes of the object.
        batch: Name of the folder it lies in.

    Returns:
        The manifest; its files have plain names, each once.

    Raises:
        DataError: With the reason alone, to be shown behind the name of the batch.
    """
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise DataError(f"its manifest is wrong{f' at {place}' if place else ''}: {fault['msg']}") from error
    if manifest.batch != batch:
        raise DataError(f"its manifest is that of a batch {manifest.batch!r}")
    names = [file.name for file in manifest.files]
    for name in names:
        if (fault := file_fault(name)) is not None:
            raise DataError(f"its manifest lists a file {name!r}, {fault}")
    if len(set(names)) < len(names):
        raise DataError("its manifest lists a file twice")
    return manifest


def render_manifest(batch: str, files: Sequence[ManifestFile], pairs: int | None) -> bytes:
    """Return the bytes of a manifest; the same for the same batch.

    Args:
        batch: Name of the batch.
        files: Its tars, in order.
        pairs: Number of pairs in all, if known.
    """
    value: dict[str, Any] = Manifest(batch=batch, files=tuple(files), pairs=pairs).model_dump(mode="json")
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()
