"""Looks into the store for batches that have arrived whole. Cheap: one listing, and the manifests that are new.

Contents are not read here: sizes are compared, and MD5 sums where the store shows them. ``ingest`` compares checksums.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from assets.deliveries.batches import Accepted, Batch, Batches, Rejected, Shard
from assets.deliveries.manifest import ManifestFile, parse_manifest
from assets.deliveries.names import MANIFEST, batch_fault
from assets.errors import DataError
from assets.shard_download import SCHEME, read_range
from assets.store import Store, StoredObject

_MOST_MANIFEST_BYTES = 64 << 20
_PLAIN_MD5 = re.compile(r"[0-9a-f]{32}")
_ENCRYPTION = "x-amz-server-side-encryption"


@dataclass(frozen=True, slots=True)
class Look:
    """What lies under a prefix and is not settled yet.

    Attributes:
        complete: Whole batches, sorted by name.
        incomplete: (batch, why) of those that cannot be taken, and of accepted ones that have changed since.
    """

    complete: list[Batch] = field(default_factory=list[Batch])
    incomplete: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])


def look(store: Store, prefix: str, known: Batches) -> Look:
    """Find the batches under a prefix that are neither accepted nor rejected.

    Args:
        store: The connection; ``store.config.bucket`` is the bucket.
        prefix: Ends with a slash; batches are the folders right under it.
        known: What was accepted and rejected.

    Returns:
        What was found. Whatever a producer has put there, wrong or half, is a reason in it and no exception.

    Raises:
        StoreError: The store does not answer or refuses.
    """
    found, loose = list_batches(store, prefix)
    result = Look()
    result.incomplete.extend((name, "lies beside the batches, not in the folder of one") for name in loose)
    for name, files in found.items():
        before = known.find(name)
        if isinstance(before, Rejected):
            continue
        folder = f"{prefix}{name}/"
        try:
            if before is not None:
                _compare(store, folder, files, before)
            else:
                result.complete.append(_whole(store, folder, name, files))
        except DataError as error:
            result.incomplete.append((name, str(error)))
    return result


def list_batches(store: Store, prefix: str) -> tuple[dict[str, dict[str, StoredObject]], list[str]]:
    """List what lies under a prefix.

    Args:
        store: The connection.
        prefix: Ends with a slash.

    Returns:
        Batch -> name in its folder -> object; and the names of files that are in no folder.
    """
    found: dict[str, dict[str, StoredObject]] = {}
    loose: list[str] = []
    for item in store.list_objects(prefix):
        batch, slash, name = item.name.removeprefix(prefix).partition("/")
        if slash and name:
            found.setdefault(batch, {})[name] = item
        elif batch and not slash:
            loose.append(batch)
    return found, loose


def plain_md5(store: Store, item: StoredObject) -> str | None:
    """Return the MD5 of an object where its ETag is one.

    Args:
        store: The connection; asked about an object whose ETag looks like an MD5 and may be none.
        item: As listed.
    """
    etag = item.etag.lower()
    if not _PLAIN_MD5.fullmatch(etag):
        return None  # uploaded in several pieces
    with store.explained():
        facts = store.client.stat_object(store.config.bucket, item.name)
    headers = {str(name).lower(): str(value) for name, value in (facts.metadata or {}).items()}
    # encrypted under keys that are not the server's own, an ETag is no MD5
    encrypted = headers.get(_ENCRYPTION, "AES256") != "AES256" or f"{_ENCRYPTION}-customer-algorithm" in headers
    return None if encrypted else etag


def _whole(store: Store, folder: str, name: str, files: Mapping[str, StoredObject]) -> Batch:
    """Return a batch that can be taken, or raise a DataError that says why it cannot."""
    if (fault := batch_fault(name)) is not None:
        raise DataError(f"its name is unfit, {fault}")
    if MANIFEST not in files:
        raise DataError(f"no {MANIFEST} yet")
    content = _read(store, files[MANIFEST])
    manifest = parse_manifest(content, name)
    missing = [file.name for file in manifest.files if file.name not in files]
    if missing:
        raise DataError(f"{len(missing)} of {len(manifest.files)} files are missing, the first is {missing[0]}")
    for file in manifest.files:
        _check(store, files[file.name], file)
    listed = {MANIFEST, *(file.name for file in manifest.files)}
    url = f"{SCHEME}{store.config.bucket}/{folder}"
    return Batch(
        name,
        hashlib.sha256(content).hexdigest(),
        hashlib.md5(content, usedforsecurity=False).hexdigest(),
        tuple(Shard(url=url + file.name, bytes=file.bytes, sha256=file.sha256) for file in manifest.files),
        manifest.pairs,
        tuple(sorted(set(files) - listed)),
    )


def _check(store: Store, item: StoredObject, file: ManifestFile) -> None:
    if item.size != file.bytes:
        raise DataError(f"{file.name} has {item.size} bytes, the manifest says {file.bytes}")
    # asking the store for each object costs, so only where the sum shown is another
    if file.md5 is not None and item.etag.lower() != file.md5 and plain_md5(store, item) not in (None, file.md5):
        raise DataError(f"{file.name} has another MD5 than the manifest says")


def _compare(store: Store, folder: str, files: Mapping[str, StoredObject], before: Accepted) -> None:
    """Raise a DataError that says what has changed about an accepted batch."""
    url = f"{SCHEME}{store.config.bucket}/{folder}"
    if not before.shards[0].url.startswith(url):
        where = before.shards[0].url.rpartition("/")[0]
        raise DataError(f"a batch of this name was accepted from {where}, deliver this one under another name")
    for shard in before.shards:
        item = files.get(shard.url.removeprefix(url))
        if item is None or item.size != shard.bytes:
            what = "is gone" if item is None else f"has {item.size} bytes, not {shard.bytes},"
            raise DataError(f"changed after it was accepted: {shard.url.removeprefix(url)} {what}")
    manifest = files.get(MANIFEST)
    if manifest is None:
        raise DataError(f"changed after it was accepted: {MANIFEST} is gone")
    if manifest.etag.lower() != before.manifest_md5:
        if hashlib.sha256(_read(store, manifest)).hexdigest() != before.manifest:
            raise DataError(f"changed after it was accepted: {MANIFEST} is another one")


def _read(store: Store, item: StoredObject) -> bytes:
    """Read a manifest as it is now; it may have been replaced or removed since it was listed."""
    if item.size > _MOST_MANIFEST_BYTES:
        raise DataError(f"its manifest has {item.size} bytes, more than anyone lists")
    return read_range(store, item.name, 0, item.size) if item.size else b""
