"""Tars that came in deliveries: which of them a split has, and whether each is still what was accepted."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Self

from assets.deliveries.batches import Batches, read_batches
from assets.errors import DataError, message
from assets.shard_cache import ShardCache


@dataclass(frozen=True, slots=True)
class DeliveredTar:
    """One tar of an accepted batch.

    Attributes:
        dataset: The data set that it belongs to.
        batch: Its batch.
        split: The split that it extends.
        url: Where it lies in the store.
        bytes: Length as accepted.
        sha256: Checksum as accepted.
        key_prefix: Stands before its keys: producers number their samples anew in every batch, and a key must stay the
            same whatever is delivered later or taken out.
    """

    dataset: str
    batch: str
    split: str
    url: str
    bytes: int
    sha256: str
    key_prefix: str

    def refusal(self, why: str) -> DataError:
        """Return the error for a tar that cannot be used.

        Args:
            why: What is wrong with it.
        """
        return DataError(
            message(
                f"batch {self.batch}, {self.url}: {why}",
                fix=f'take the batch out: clipfoundry batches reject {self.dataset} {self.batch} --reason "..", '
                "and deliver it anew under another name",
            )
        )


@dataclass(slots=True)
class Delivered:
    """The accepted tars of a data set; travels to worker processes with its source.

    Attributes:
        dataset: Name of the data set.
        prefixes: Split -> prefix, for the splits that take deliveries.
        by_url: The tars, in the order of acceptance.
        checked: URL and inode of the copies that were compared.
    """

    dataset: str = ""
    prefixes: Mapping[str, str] = field(default_factory=dict[str, str])
    by_url: dict[str, DeliveredTar] = field(default_factory=dict[str, DeliveredTar])
    checked: set[tuple[str, int]] = field(default_factory=set[tuple[str, int]])

    @classmethod
    def read(cls, path: Path | None, prefixes: Mapping[str, str]) -> Self:
        """Read what was accepted.

        Args:
            path: ``batches/D.json``, which may be missing; None where no file is known.
            prefixes: Split -> prefix, for the splits that take deliveries.

        Raises:
            DataError: The file is damaged, or has batches of a split that takes none.
        """
        known = read_batches(path) if path is not None else Batches(dataset="D")
        if stray := [entry for entry in known.accepted if entry.split not in prefixes]:
            raise DataError(
                message(
                    f"batch {stray[0].batch} of {known.dataset} was accepted for split {stray[0].split}, which takes "
                    "no deliveries",
                    fix=f"set splits.{stray[0].split}.deliveries again, or take the batch out: clipfoundry batches "
                    f"reject {known.dataset} {stray[0].batch}",
                )
            )
        tars = [
            DeliveredTar(
                known.dataset,
                entry.batch,
                entry.split,
                shard.url,
                shard.bytes,
                shard.sha256,
                f"{entry.batch}-{number:05d}-",
            )
            for entry in known.accepted
            for number, shard in enumerate(entry.shards)
        ]
        return cls(known.dataset, dict(prefixes), {tar.url: tar for tar in tars})

    def tars(self, split: str) -> list[DeliveredTar]:
        """Return the tars of a split, in the order of acceptance."""
        return [tar for tar in self.by_url.values() if tar.split == split]

    def find(self, shard: str) -> DeliveredTar | None:
        """Return what is known of a tar, or None when it was not delivered."""
        return self.by_url.get(shard)

    def check(self, tar: DeliveredTar, stream: BufferedReader, cache: ShardCache | None) -> None:
        """Compare a tar with what was accepted, once for every copy of it.

        Args:
            tar: Which one.
            stream: The copy, open at its begin, where it is left.
            cache: Where the copy lies; one that is wrong is removed from there.

        Raises:
            DataError: It is another one.
        """
        facts = os.fstat(stream.fileno())
        if (tar.url, facts.st_ino) in self.checked:
            return
        if facts.st_size != tar.bytes:
            fault = f"has {facts.st_size} bytes, {tar.bytes} were accepted"
        elif (digest := hashlib.file_digest(stream, "sha256").hexdigest()) != tar.sha256:  # pyright: ignore[reportArgumentType]
            fault = f"has SHA-256 {digest[:16]}.., {tar.sha256[:16]}.. was accepted"
        else:
            stream.seek(0)
            self.checked.add((tar.url, facts.st_ino))
            return
        if cache is not None:
            cache.path(tar.url).unlink(missing_ok=True)  # so that a mended object is fetched anew
        raise tar.refusal(f"altered in the store, {fault}")

    def none_yet(self, split: str) -> DataError:
        """Return the error for a split that has no tar at all.

        Args:
            split: One that takes deliveries.
        """
        return DataError(
            message(
                f"split {split} lives on deliveries under {self.prefixes.get(split)}, and none was accepted yet",
                fix=f"deliver one: clipfoundry batches deliver {self.dataset} FOLDER, "
                f"then clipfoundry batches accept {self.dataset}",
            )
        )
