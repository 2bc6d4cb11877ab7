"""``batches/D.json``: the deliveries of a data set that were accepted, in order, and those that were rejected.

The file is tracked by git, so a commit says which batches a version of the data was made of. It names every shard with
its checksum: ``ingest`` refuses an object that is no longer what was accepted.
"""

import fcntl
import json
import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from assets.atomic import write_json
from assets.errors import ConfigError, DataError, message
from assets.section import Section, parse

BATCHES = Path("batches")


class Shard(Section):
    """One tar of a batch."""

    url: str = Field(pattern=r"^s3://[^/]+/.+$")
    """Where it lies: ``s3://BUCKET/PREFIX/BATCH/NAME.tar``."""
    bytes: int = Field(ge=1)
    """Length."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Checksum."""


class Accepted(Section):
    """A batch whose shards belong to the data set."""

    batch: str
    """Its name, unique in the data set."""
    split: str
    """The split that it extends."""
    manifest: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of its manifest object."""
    manifest_md5: str = Field(pattern=r"^[0-9a-f]{32}$")
    """MD5 of the same; a listing of the store shows it, so that a change is seen without a read."""
    shards: tuple[Shard, ...] = Field(min_length=1)
    """Its tars, in the order of the manifest."""


class Rejected(Section):
    """A batch that is not used and not offered again."""

    batch: str
    """Its name."""
    split: str | None
    """The split that it extended; null when it had not been accepted."""
    reason: str
    """Why, for people."""


class Batches(Section):
    """The whole file."""

    dataset: str
    """Name of the data set."""
    accepted: tuple[Accepted, ...] = ()
    """In the order of acceptance, which is that of the samples."""
    rejected: tuple[Rejected, ...] = ()
    """In the order of rejection."""

    def find(self, batch: str) -> Accepted | Rejected | None:
        """Return what is known of a batch."""
        every = (*self.accepted, *self.rejected)
        return next((entry for entry in every if entry.batch == batch), None)


@dataclass(frozen=True, slots=True)
class Batch:
    """A whole batch that waits in the store.

    Attributes:
        name: Its name.
        manifest: SHA-256 of its manifest object.
        manifest_md5: MD5 of the same.
        shards: Its tars, in the order of the manifest.
        pairs: Number of pairs that the manifest tells, if it does.
        unlisted: Names of files in its folder that the manifest does not list, and that nobody reads.
    """

    name: str
    manifest: str
    manifest_md5: str
    shards: tuple[Shard, ...]
    pairs: int | None = None
    unlisted: tuple[str, ...] = ()


def read_batches(path: Path) -> Batches:
    """Read the file of a data set.

    Args:
        path: ``batches/D.json``; without a file there are no batches.

    Raises:
        DataError: The file is damaged, or is that of another data set.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return Batches(dataset=path.stem)
    fix = f"mend it, or take the last version: git checkout {path}"
    try:
        batches = parse(Batches, json.loads(content), str(path))
    except ConfigError as error:
        raise DataError(f"{error}; {fix}") from error
    except ValueError as error:
        raise DataError(message(f"{path} is not readable as JSON ({error})", fix=fix)) from error
    if batches.dataset != path.stem:
        raise DataError(message(f"{path} is of another data set", batches.dataset, repr(path.stem), fix))
    names = [entry.batch for entry in (*batches.accepted, *batches.rejected)]
    if len(set(names)) < len(names):
        raise DataError(message(f"{path} names a batch twice", fix=fix))
    return batches


def accept(path: Path, dataset: str, split: str, batches: Sequence[Batch]) -> Batches:
    """Add whole batches to a data set; those that were accepted before are left as they are.

    Args:
        path: ``batches/D.json``; made when missing.
        dataset: Name of the data set.
        split: The split that they extend.
        batches: What :func:`~assets.deliveries.look.look` found complete, in the order to be accepted.

    Returns:
        What the file says now.

    Raises:
        DataError: A batch of that name was rejected, or accepted with another manifest or for another split.
    """
    with _changing(path, dataset) as known:
        new: list[Accepted] = []
        for batch in batches:
            entry = Accepted(
                batch=batch.name,
                split=split,
                manifest=batch.manifest,
                manifest_md5=batch.manifest_md5,
                shards=batch.shards,
            )
            before = known.find(batch.name)
            if before is None:
                new.append(entry)
            elif before != entry:
                what = f"rejected ({before.reason})" if isinstance(before, Rejected) else "accepted with other content"
                raise DataError(
                    message(f"{dataset}: a batch {batch.name} was {what} before", fix="deliver it under another name")
                )
        if not new:
            return known
        return _write(path, known.model_copy(update={"accepted": (*known.accepted, *new)}))


def reject(path: Path, dataset: str, batch: str, reason: str) -> Batches:
    """Take an accepted batch out of a data set, or keep a waiting one from being accepted.

    Args:
        path: ``batches/D.json``; made when missing.
        dataset: Name of the data set.
        batch: Name of the batch; it is never offered again.
        reason: Why, for people.

    Returns:
        What the file says now. A batch that was rejected before keeps its reason.

    Raises:
        ConfigError: No reason is given.
    """
    if not reason.strip():
        raise ConfigError(message(f"batch {batch} cannot be rejected without a reason", fix="say why in a few words"))
    with _changing(path, dataset) as known:
        before = known.find(batch)
        if isinstance(before, Rejected):
            return known
        entry = Rejected(batch=batch, split=before.split if before else None, reason=reason.strip())
        left = tuple(other for other in known.accepted if other is not before)
        return _write(path, known.model_copy(update={"accepted": left, "rejected": (*known.rejected, entry)}))


@contextmanager
def _changing(path: Path, dataset: str) -> Generator[Batches]:
    """Yield what the file says, while no other process of this machine changes it."""
    if path.stem != dataset:
        raise ConfigError(message(f"{path} is not the file of data set {dataset}", wanted=f"{dataset}.json"))
    path.parent.mkdir(parents=True, exist_ok=True)
    # the folder itself is locked: a lock file in it would show up in git
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield read_batches(path)
    finally:
        os.close(descriptor)


def _write(path: Path, batches: Batches) -> Batches:
    write_json(path, batches.model_dump(mode="json"))
    return batches
