"""The webdataset source: pairs and labelled pictures in tar files that img2dataset, clip_benchmark or we have written.

Splits are listed once, by the headers of their tars. Index i of a split is its i-th sample, in the order of the shards;
contents are read only when the sample is asked for. A pair that lacks its picture or its caption is handed out with an
empty one, so that validation rejects it by name; only what has neither, or cannot serve for zero-shot, is left out.
"""

import hashlib
import json
import re
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np

from assets.errors import DataError, message
from assets.members import open_shard
from assets.placement import InPlace, Placement
from assets.progress import Stage, setup_logging
from assets.shard_cache import ShardCache
from assets.shards import IMAGE_EXTENSIONS
from assets.sources.base import Means, Role, Sample
from assets.sources.described.source import DescribedSource, SplitListing
from assets.sources.webdataset.archive import BLOCK, Place, find_shards, list_samples
from assets.sources.webdataset.config import WebDatasetConfig
from assets.sources.webdataset.delivered import Delivered, DeliveredTar

_NO_IMAGE = "no picture (" + ", ".join(IMAGE_EXTENSIONS) + ")"
_NEEDS: Mapping[Role, tuple[tuple[str, ...], str]] = {
    "train": (("txt",), "no caption (txt)"),
    "retrieval": (("txt",), "no caption (txt)"),
    "zero_shot": (("cls", "json"), "no label (cls)"),
}
_NEITHER = "neither picture nor caption (txt)"
_UNFIT = re.compile(r"[./\s\x00-\x1f\x7f\ud800-\udfff]+")
_KEY_BYTES = 64
_SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True, slots=True)
class Listing(SplitListing):
    """What the headers of a split's tars say; its digest names the keys, places and sizes of all members.

    Attributes:
        shards: The tars, those that were delivered last.
        ends: Samples in the tars up to and with each.
        prefixed: Whether keys get split and shard number in front, because some would not be unique; those of delivered
            tars always have batch and tar number there, so that what comes later changes no key.
    """

    shards: tuple[str, ...]
    ends: tuple[int, ...]
    prefixed: bool


@dataclass(frozen=True, slots=True)
class _Tally:
    """The counters of a listing under way; see :class:`Listing`."""

    left_out: Counter[str] = field(default_factory=Counter[str])
    incomplete: Counter[str] = field(default_factory=Counter[str])


class _Unreadable(Exception):
    """Why a sample that has all its members cannot be used."""


def tidy(key: str) -> str:
    """Return a key without dot or slash that a tar header can hold; one that is so already stays as it is.

    Args:
        key: Name of a tar member without its last suffix.

    Returns:
        The key, or its readable part with 8 hex digits of its hash, so that different keys stay different.
    """
    readable = _UNFIT.sub("-", key).strip("-")
    if readable == key and len(key.encode()) <= _KEY_BYTES:
        return key
    digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
    short = readable.encode()[: _KEY_BYTES - 9].decode(errors="ignore")
    return f"{short}-{digest}".lstrip("-")


class WebDataset(DescribedSource[WebDatasetConfig, Listing]):
    """Existing tars as a source.

    Args:
        config: Where they are and what is known about them.
    """

    kind: ClassVar[str] = "webdataset"
    listed: ClassVar[str] = "tars"

    def __init__(self, config: WebDatasetConfig) -> None:
        super().__init__(config)
        self._opened: tuple[str, list[tuple[str, dict[str, Place]]]] | None = None
        self._cache: ShardCache | None = None
        self._delivered = Delivered()

    def prepare(self, folder: Path, means: Means, stage: Stage) -> None:
        """Take the object store, in which tars may lie, and the accepted deliveries; there is nothing to fetch.

        Args:
            folder: Not used.
            means: Among them what knows the object store, and the file of accepted deliveries.
            stage: Not used.

        Raises:
            DataError: That file is damaged, or has batches of a split that takes none.
        """
        del folder, stage
        self._cache = means.cache
        taking = {name: split.deliveries for name, split in self._config.splits.items() if split.deliveries}
        self._delivered = Delivered.read(means.batches, taking)

    def samples(self, split: str, start: int, stop: int) -> Iterator[Sample]:
        """Yield the samples of one split with start <= index < stop, in index order, unreadable ones left out."""
        listing, role = self._listings[split], self._config.splits[split].role
        left_out: Counter[str] = Counter()
        for number in range(bisect_right(listing.ends, start), len(listing.shards)):
            shard, begin = listing.shards[number], listing.ends[number - 1] if number else 0
            if begin >= stop:
                break
            usable = self._usable(shard, role)
            if begin + len(usable) != listing.ends[number]:
                raise DataError(message(f"{shard} has changed since it was listed", fix="run ingest again"))
            tar = self._delivered.find(shard)
            prefix = tar.key_prefix if tar else f"{split}-{number:05d}-" if listing.prefixed else ""
            with open_shard(shard, self._cache) as stream:
                if tar:
                    self._delivered.check(tar, stream, self._cache)
                for key, members in usable[max(start - begin, 0) : stop - begin]:
                    try:
                        sample = self._sample(stream, prefix + tidy(key), members, role)
                    except _Unreadable as error:
                        left_out[str(error)] += 1
                        continue
                    yield replace(sample, place=_place(shard, members)) if self._config.in_place else sample
        for why, count in left_out.items():
            setup_logging().warning("%s samples %d to %d: %d left out, %s", split, start, stop, count, why)

    def _further_faults(self, split: str, listing: Listing) -> list[str]:
        repeat = f"Keys of {split} begin with split and shard number, because they repeat in the tars."
        return [repeat] if listing.prefixed else []

    def _cuts(self, listing: Listing) -> tuple[int, ...]:
        return listing.ends if self._config.in_place else ()

    def _list_splits(self, names: list[str]) -> dict[str, Listing]:
        # all patterns first: a missing file should not show only after an hour of listing
        shards = {name: self._shards(name) for name in names}
        taken = np.empty(0, np.uint64)
        listings: dict[str, Listing] = {}
        for name in names:
            listings[name], keys = self._list(name, shards[name], taken)
            taken = np.concatenate([taken, keys])
        return listings

    def _shards(self, split: str) -> list[str]:
        """Return the tars of a split: those of its pattern, and behind them those that were delivered."""
        pattern = self._config.splits[split].shards
        shards = [] if pattern is None else find_shards(pattern, split, self._cache)
        delivered = [tar.url for tar in self._delivered.tars(split)]
        if twice := set(shards) & set(delivered):
            raise DataError(
                message(f"{min(twice)} is in shards of split {split}, and delivered", fix="correct splits.*.shards")
            )
        if not shards and not delivered:
            raise self._delivered.none_yet(split)
        return shards + delivered

    def _list(self, split: str, shards: list[str], taken: np.ndarray) -> tuple[Listing, np.ndarray]:
        """List one split; also return the hashes of its keys, uint64."""
        log, role = setup_logging(), self._config.splits[split].role
        said = time.monotonic()
        counts: list[int] = []
        hashes: list[np.ndarray] = []
        tally = _Tally()
        digest = hashlib.blake2b(digest_size=8)
        for number, shard in enumerate(shards):
            tar = self._delivered.find(shard)
            usable = self._delivered_usable(tar, role, tally) if tar else self._usable(shard, role, tally)
            counts.append(len(usable))
            hashes.append(_hashes([(tar.key_prefix if tar else "") + tidy(key) for key, _ in usable]))
            digest.update(json.dumps(usable).encode() + (tar.sha256.encode() if tar else b""))
            if time.monotonic() - said > _SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                log.info("listing %s: %d of %d tars, %d samples", split, number + 1, len(shards), sum(counts))
        samples = sum(counts)
        if samples == tally.incomplete.total():
            raise _nothing_usable(split, role, len(shards), tally)
        for fate, reasons in (("left out", tally.left_out), ("incomplete", tally.incomplete)):
            for why, count in reasons.items():
                log.warning("%s: %d of %d samples %s, %s", split, count, samples + tally.left_out.total(), fate, why)
        prefixed = self._must_be_prefixed(shards, hashes, taken)
        keys = np.concatenate(hashes)
        ends = tuple(accumulate(counts))
        facts = samples, dict(tally.left_out), dict(tally.incomplete), digest.hexdigest()
        return Listing(*facts, tuple(shards), ends, prefixed), keys

    def _must_be_prefixed(self, shards: Sequence[str], hashes: Sequence[np.ndarray], taken: np.ndarray) -> bool:
        """Say whether keys repeat among the tars that were not delivered; refuse that among those that were.

        Args:
            shards: The tars of a split.
            hashes: For each tar, those of its keys, [samples] uint64.
            taken: Hashes of the keys of earlier splits, [keys] uint64.
        """
        none = np.empty(0, np.uint64)
        tars = [self._delivered.find(shard) for shard in shards]
        keys = np.concatenate([none, *(found for found, tar in zip(hashes, tars, strict=True) if tar is None)])
        known = np.concatenate([keys, taken])
        for found, tar in zip(hashes, tars, strict=True):
            if tar is not None:
                if len(np.unique(found)) < len(found) or np.isin(found, known).any():
                    raise tar.refusal("a key of it is taken already")
                known = np.concatenate([known, found])
        return len(np.unique(keys)) < len(keys) or bool(np.isin(keys, taken).any())

    def _delivered_usable(self, tar: DeliveredTar, role: Role, tally: _Tally) -> list[tuple[str, dict[str, Place]]]:
        """Return the samples of a delivered tar, after comparing it with what was accepted."""
        with open_shard(tar.url, self._cache) as stream:
            self._delivered.check(tar, stream, self._cache)
        try:
            return self._usable(tar.url, role, tally)
        except DataError as error:
            raise tar.refusal(str(error)) from error

    def _usable(self, shard: str, role: Role, tally: _Tally | None = None) -> list[tuple[str, dict[str, Place]]]:
        """Return the samples of a tar that are handed out; the last tar's are kept at hand."""
        if tally is None and self._opened is not None and self._opened[0] == shard:
            return self._opened[1]
        tally = tally or _Tally()
        needed, lack = _NEEDS[role]
        usable: list[tuple[str, dict[str, Place]]] = []
        for key, members in list_samples(shard, self._cache).items():
            pictured = any(extension in members for extension in IMAGE_EXTENSIONS)
            worded = any(suffix in members for suffix in needed)
            if pictured and worded:
                usable.append((key, members))
            elif role == "zero_shot":
                tally.left_out[lack if pictured else _NO_IMAGE] += 1
            elif pictured or worded:
                tally.incomplete[lack if pictured else _NO_IMAGE] += 1
                usable.append((key, members))
            else:
                tally.left_out[_NEITHER] += 1
        self._opened = (shard, usable)
        return usable

    def _sample(self, stream: IO[bytes], key: str, members: dict[str, Place], role: Role) -> Sample:
        extension = next((name for name in IMAGE_EXTENSIONS if name in members), None)
        metadata = _metadata(stream, members)
        caption = _text(stream, members["txt"], "txt") if "txt" in members else ""
        if role == "zero_shot":
            class_id = self._label(stream, members, metadata)
            metadata["class_id"] = class_id
            if "txt" not in members and self._class_names:
                caption = self._class_names.names[class_id]
        if not isinstance(metadata.get("captions"), dict):
            metadata["captions"] = {self._config.languages[0]: caption}
        concepts = self._mentioned(caption, role)
        image = b"" if extension is None else _read(stream, members[extension])
        return Sample(key, image, "jpg" if extension in ("jpeg", None) else extension, caption, metadata, concepts)

    def _label(self, stream: IO[bytes], members: dict[str, Place], metadata: dict[str, Any]) -> int:
        assert self._class_names is not None
        try:
            label = int(_text(stream, members["cls"], "cls")) if "cls" in members else metadata["class_id"]
        except (ValueError, KeyError):
            raise _Unreadable("no whole number in cls, no class_id in json") from None
        if not isinstance(label, int) or not 0 <= label < len(self._class_names.names):
            raise DataError(
                message(
                    f"a sample in {stream.name} has a label that the file of classes does not name",
                    label,
                    f"0 to {len(self._class_names.names) - 1}",
                    "correct splits.*.classes",
                )
            )
        return label


def _nothing_usable(split: str, role: Role, tars: int, tally: _Tally) -> DataError:
    faulty = tally.left_out + tally.incomplete
    return DataError(
        message(
            f"the {tars} tars of split {split} hold no usable sample",
            ", ".join(f"{count} with {why}" for why, count in faulty.items()) or "no files",
            f"pictures with {' or '.join(_NEEDS[role][0])}",
            "correct splits.*.shards or splits.*.role",
        )
    )


def _place(shard: str, members: dict[str, Place]) -> InPlace:
    """Say where a sample lies in its tar, whose members need not stand together."""
    begin = min(offset for offset, _ in members.values()) - BLOCK
    end = max(offset + size + -size % BLOCK for offset, size in members.values())
    image = next((members[name] for name in IMAGE_EXTENSIONS if name in members), (begin + BLOCK, 0))
    return InPlace(shard, Placement(begin, end - begin, *image, *members.get("json", (0, 0))))


def _hashes(keys: list[str]) -> np.ndarray:
    """Return a number per key, uint64; equal numbers mean equal keys in any data set that fits a disk."""
    digests = [hashlib.blake2b(key.encode(), digest_size=8).digest() for key in keys]
    return np.frombuffer(b"".join(digests), np.uint64)


def _read(stream: IO[bytes], place: Place) -> bytes:
    stream.seek(place[0])
    return stream.read(place[1])


def _text(stream: IO[bytes], place: Place, suffix: str) -> str:
    try:
        return _read(stream, place).decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise _Unreadable(f"{suffix} is not UTF-8") from None


def _metadata(stream: IO[bytes], members: dict[str, Place]) -> dict[str, Any]:
    if "json" not in members:
        return {}
    try:
        metadata = json.loads(_text(stream, members["json"], "json"))
        # half a surrogate pair passes the parser and fails when written
        json.dumps(metadata, ensure_ascii=False).encode()
    except ValueError:
        raise _Unreadable("json is not readable") from None
    if not isinstance(metadata, dict):
        raise _Unreadable("json holds no mapping")
    return metadata
