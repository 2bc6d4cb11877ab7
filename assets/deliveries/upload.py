"""Sends the tars of a folder to the store as one batch, the manifest last.

An upload that was killed leaves tars without a manifest, which nobody takes. The same call again sends what is missing.
An object appears in an S3 store whole or not at all, so a tar that is there with the right size and sum stays.
"""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from assets.deliveries.look import list_batches, plain_md5
from assets.deliveries.manifest import ManifestFile, render_manifest
from assets.deliveries.names import MANIFEST, batch_fault, file_fault, prefix_fault
from assets.errors import ConfigError, DataError, message
from assets.progress import Progress, Stage
from assets.shards import IMAGE_EXTENSIONS
from assets.sources.webdataset.archive import list_samples
from assets.store import Store, StoredObject

_PIECE = 16 << 20
_CHUNK = 1 << 20
_SUM = "sha256"
_WORDS = ("txt", "cls")
_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Delivery:
    """A batch that is in the store now.

    Attributes:
        batch: Its name.
        sent: Names of the tars uploaded by this call.
        kept: Names of those that were there already.
        pairs: Pairs and labelled pictures in all.
    """

    batch: str
    sent: tuple[str, ...]
    kept: tuple[str, ...]
    pairs: int


def deliver(
    store: Store, prefix: str, batch: str, files: Sequence[Path], progress: Callable[[int], Progress] | None = None
) -> Delivery:
    """Check tars and upload them as a batch; goes on where an earlier call was cut off.

    Args:
        store: The connection; ``store.config.bucket`` is the bucket.
        prefix: That of the split, see :func:`~assets.deliveries.splits.delivery_splits`.
        batch: Name of the batch, new under the prefix.
        files: The tars in the order in which their samples are to stand.
        progress: Opens a display, given the megabytes in all; see :func:`megabytes`. None shows nothing.

    Returns:
        What was sent.

    Raises:
        ConfigError: A name is unfit.
        DataError: A tar is damaged or holds no pair, or a batch of that name is there already, whole or of others.
        StoreError: The store does not answer or refuses.
    """
    _check_names(prefix, batch, files)
    pairs = sum(_count_pairs(path) for path in files)
    there = list_batches(store, prefix)[0].get(batch, {})
    names = {path.name for path in files}
    if MANIFEST in there or set(there) - names:
        fault = "is there already" if MANIFEST in there else f"holds other files: {min(set(there) - names)}"
        raise DataError(message(f"batch {prefix}{batch} {fault}", fix="deliver under another name (--batch)"))
    total = sum(path.stat().st_size for path in files)
    listed: list[ManifestFile] = []
    sent: list[str] = []
    with _Shown(progress, total) as shown:
        for path in files:
            facts = _facts(path)
            listed.append(facts)
            if _same(store, there.get(path.name), facts):
                shown.update(facts.bytes)
                continue
            _send(store, f"{prefix}{batch}/{path.name}", path, facts, shown)
            sent.append(path.name)
    content = render_manifest(batch, listed, pairs)
    with store.explained():
        store.client.put_object(
            store.config.bucket, f"{prefix}{batch}/{MANIFEST}", io.BytesIO(content), len(content), "application/json"
        )
    kept = tuple(path.name for path in files if path.name not in sent)
    return Delivery(batch, tuple(sent), kept, pairs)


def megabytes(stage: Stage) -> Callable[[int], Progress]:
    """Return what opens the progress display of a stage for :func:`deliver`.

    Args:
        stage: Shows it.
    """
    return lambda total: stage.progress("upload", total, "MB")


def _check_names(prefix: str, batch: str, files: Sequence[Path]) -> None:
    if not files:
        raise DataError(message(f"nothing to deliver as batch {batch}", fix="name a folder with .tar files"))
    faults = ((prefix, prefix_fault(prefix)), (batch, batch_fault(batch)))
    for name, fault in (*faults, *((path.name, file_fault(path.name)) for path in files)):
        if fault is not None:
            raise ConfigError(f"{name!r} cannot be delivered: {fault}")
    if len({path.name for path in files}) < len(files):
        raise ConfigError(message(f"two files of batch {batch} have one name", fix="rename one"))


def _count_pairs(path: Path) -> int:
    """Return how many pictures of a tar have words or a label; refuse a tar that nothing could be learnt from."""
    count = sum(
        any(extension in members for extension in IMAGE_EXTENSIONS) and any(suffix in members for suffix in _WORDS)
        for members in list_samples(str(path)).values()
    )
    if not count:
        raise DataError(
            message(
                f"{path} holds no pair",
                wanted=f"KEY.{'|'.join(IMAGE_EXTENSIONS)} with KEY.txt, or with KEY.cls for zero-shot",
                fix="leave it out, or make it again",
            )
        )
    return count


def _facts(path: Path) -> ManifestFile:
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            sha256.update(chunk)
            md5.update(chunk)
            size += len(chunk)
    return ManifestFile(name=path.name, bytes=size, sha256=sha256.hexdigest(), md5=md5.hexdigest())


def _same(store: Store, item: StoredObject | None, facts: ManifestFile) -> bool:
    """Say whether a tar is in the store already: by its MD5, or by the checksum that came along with several pieces."""
    if item is None or item.size != facts.bytes:
        return False
    md5 = plain_md5(store, item)
    if md5 is not None:
        return md5 == facts.md5
    with store.explained():
        metadata = store.client.stat_object(store.config.bucket, item.name).metadata or {}
    return {str(key).lower(): value for key, value in metadata.items()}.get(f"x-amz-meta-{_SUM}") == facts.sha256


def _send(store: Store, name: str, path: Path, facts: ManifestFile, shown: "_Shown") -> None:
    with path.open("rb") as stream, store.explained():
        store.client.put_object(
            store.config.bucket,
            name,
            stream,
            facts.bytes,
            "application/x-tar",
            metadata={_SUM: facts.sha256},
            progress=shown,
            part_size=_PIECE,
        )


class _Shown:
    """Progress in bytes, shown in megabytes; the SDK tells it what it has read (``minio.helpers.ProgressType``)."""

    def __init__(self, progress: Callable[[int], Progress] | None, total: int) -> None:
        self._bytes, self._total = 0, total
        self._progress = progress(-(-total // _MB)) if progress else None

    def __enter__(self) -> "_Shown":
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.__exit__()

    def set_meta(self, object_name: str, total_length: int) -> None:
        """Do nothing: sizes are known."""

    def update(self, length: int) -> None:
        """Count bytes."""
        before, self._bytes = self._bytes, self._bytes + length
        if self._progress is not None:
            # the last megabyte need not be a whole one
            after = -(-self._bytes // _MB) if self._bytes >= self._total else self._bytes // _MB
            self._progress.advance(after - before // _MB)
