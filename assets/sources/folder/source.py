"""The folder source: pictures that lie in folders, with captions beside them or in one file.

A split is listed once, by names and sizes. Index i of it is the i-th path in sorted order; contents are read only when
the sample is asked for, and go into the shards as they are. A picture without caption, or a caption without picture, is
handed out with an empty one, so that validation rejects it by name; what is left out is counted by reason.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from assets.errors import DataError, message
from assets.progress import setup_logging
from assets.sources.base import Sample
from assets.sources.described.extension import extension_of
from assets.sources.described.labels import ClassLookup
from assets.sources.described.source import DescribedSource, SplitListing
from assets.sources.folder.config import FolderConfig, FolderSplit
from assets.sources.folder.files import list_files
from assets.sources.folder.keys import make_key
from assets.sources.folder.labels import number_folders, parent_name
from assets.sources.folder.pairing import NOT_UTF8, Entry, is_utf8, pair_rows, pair_sidecars, read_rows

_NO_PICTURE, _NO_CAPTION, _NO_LABEL = "no picture", "no caption", "no label"
# paths as bytes: a name on disk need not be UTF-8. Columns instead of objects, because every worker gets a copy
_SCHEMA = pa.schema(
    {"path": pa.large_binary(), "size": pa.int64(), "text": pa.large_binary(), "captions": pa.large_string()}
    | {"class_id": pa.int32()}
)


@dataclass(frozen=True, slots=True)
class Listing(SplitListing):
    """A split as its folder and captions file tell it; its digest names all paths, sizes, captions and classes.

    Attributes:
        table: One row per index: ``path``, ``size`` of the picture (null without), ``text`` (the caption file),
            ``captions`` (JSON, from a captions file) and ``class_id``.
        speechless: Languages that its captions file has no column of.
    """

    table: pa.Table
    speechless: tuple[str, ...]


class _Rows:
    """The table of a listing under way, and its digest."""

    def __init__(self) -> None:
        self.digest = hashlib.blake2b(digest_size=8)
        self._columns: dict[str, list[Any]] = {name: [] for name in _SCHEMA.names}

    def add(self, entry: Entry, class_id: int | None) -> None:
        captions = json.dumps(dict(entry.captions), ensure_ascii=False) if entry.captions else None
        text = None if entry.text is None else _encode(entry.text)
        row = (_encode(entry.path), entry.size, text, captions, class_id)
        self.digest.update(repr(row).encode())
        for column, value in zip(self._columns.values(), row, strict=True):
            column.append(value)

    def table(self) -> pa.Table:
        return pa.table(self._columns, _SCHEMA)


class Folder(DescribedSource[FolderConfig, Listing]):
    """Folders of pictures as a source.

    Args:
        config: Where they are and what is known about them.
    """

    kind: ClassVar[str] = "folder"
    listed: ClassVar[str] = "files"
    left_out_fault: ClassVar[str] = "{count:,} of {split} left out: {why}."

    def samples(self, split: str, start: int, stop: int) -> Iterator[Sample]:
        """Yield the samples of one split with start <= index < stop, in index order, unreadable ones left out."""
        left_out = 0
        root = Path(self._config.splits[split].path)
        for row in self._listings[split].table.slice(start, stop - start).to_pylist():
            captions = _captions(root, row, self._config.languages[0])
            if captions is None:
                left_out += 1
                setup_logging().warning("%s: %s left out, %s", split, _shown(_decode(row["path"])), NOT_UTF8)
            else:
                yield self._sample(split, root, row, captions)
        if left_out:
            setup_logging().warning("%s samples %d to %d: %d left out, %s", split, start, stop, left_out, NOT_UTF8)

    def _sample(self, split: str, root: Path, row: Mapping[str, Any], captions: dict[str, str]) -> Sample:
        path, language = _decode(row["path"]), self._config.languages[0]
        metadata: dict[str, Any] = {"file": _shown(path)}
        if row["class_id"] is not None:
            metadata["class_id"] = row["class_id"]
            captions.setdefault(language, self._names[row["class_id"]])
        caption = captions.setdefault(language, "")
        metadata["captions"] = captions
        image = b"" if row["size"] is None else _read(root / path)
        if len(image) != (row["size"] or 0):
            raise DataError(message(f"{root / path} has changed since it was listed", fix="run ingest again"))
        role = self._config.splits[split].role
        key = make_key(path, None if role == "train" else split)
        return Sample(key, image, extension_of(image), caption, metadata, self._mentioned(caption, role))

    def _further_faults(self, split: str, listing: Listing) -> list[str]:
        return [f"The captions file of {split} has no column of language {code}." for code in listing.speechless]

    def _list_splits(self, names: list[str]) -> dict[str, Listing]:
        # all places first: one that is missing should not show only after an hour of listing
        for name in names:
            _check_places(name, self._config.splits[name])
        return {name: self._list(name, self._config.splits[name]) for name in names}

    def _list(self, name: str, split: FolderSplit) -> Listing:
        left_out, incomplete = Counter[str](), Counter[str]()
        rows, speechless = self._rows(split, left_out)
        files = list_files(Path(split.path), split.recursive)
        left_out.update(files.left_out)
        if rows is not None:
            entries = pair_rows(files, rows, left_out)
        else:
            entries = pair_sidecars(files, split.captions == "sidecar", left_out)
        del files, rows
        entries.sort(key=lambda entry: entry.path)
        if not any(entry.size is not None for entry in entries):
            got = _reasons(left_out + Counter({_NO_PICTURE: len(entries)})) or "an empty folder"
            raise DataError(message(f"no picture in {split.path} (split {name})", got, fix="correct splits.*.path"))
        class_ids = self._class_ids(name, split, entries)
        usable = _Rows()
        for entry, class_id in zip(entries, class_ids, strict=True):
            lack = _lack(entry, class_id, None if split.labels else self._config.languages[0])
            if not all(is_utf8(text) for _, text in entry.captions):
                left_out[NOT_UTF8] += 1
            elif lack and split.role == "zero_shot":
                left_out[lack] += 1
            else:
                incomplete.update([lack] if lack else [])
                usable.add(entry, class_id)
        # sorted, because the disk's order of names would show on the data card
        counts = dict(sorted(left_out.items())), dict(sorted(incomplete.items()))
        table = usable.table()
        listing = Listing(table.num_rows, *counts, usable.digest.hexdigest(), table, tuple(speechless))
        self._tell(name, split, entries, listing)
        return listing

    def _rows(self, split: FolderSplit, left_out: Counter[str]) -> tuple[dict[str, Entry] | None, list[str]]:
        """Return the rows of the captions file, None if there is none, and the languages it lacks."""
        config = split.captions_file
        if config is None:
            return None, []
        required = [config.path]
        required += [config.label] if split.labels == "column" else []
        required += [config.caption] if split.role != "zero_shot" else []
        return read_rows(config, self._config.languages, required, left_out)

    def _class_ids(self, name: str, split: FolderSplit, entries: list[Entry]) -> list[int | None]:
        if split.labels is None:
            return [None] * len(entries)
        pictures = (entry.path for entry in entries if entry.size is not None)
        if split.labels == "folder_order":
            numbers = number_folders(pictures, self._names, name)
        else:
            column = split.labels == "column"
            found = {entry.label if column else parent_name(entry.path) for entry in entries if entry.size is not None}
            lookup = ClassLookup(self._names, name)
            numbers = {label: lookup.class_id(label) for label in sorted(label for label in found if label)}
        labels = [entry.label if split.labels == "column" else parent_name(entry.path) for entry in entries]
        return [numbers.get(label or "") for label in labels]

    def _tell(self, name: str, split: FolderSplit, entries: list[Entry], listing: Listing) -> None:
        """Log what is left out or incomplete; refuse a split in which nothing fits together."""
        faulty = Counter(listing.left_out) + Counter(listing.incomplete)
        if listing.size == sum(listing.incomplete.values()):
            wanted = f"pictures with {'labels' if split.labels else 'captions'}"
            picture = next(_shown(entry.path) for entry in entries if entry.size is not None)
            lonely = [f"the first caption is of {_shown(entry.path)!r}" for entry in entries if entry.size is None]
            fix = "; ".join([f"correct splits.* or the names: the first picture is {picture!r}", *lonely[:1]])
            raise DataError(message(f"{split.path} (split {name}) has no usable sample", _reasons(faulty), wanted, fix))
        for fate, reasons in (("left out", listing.left_out), ("incomplete", listing.incomplete)):
            for why, count in reasons.items():
                setup_logging().warning("%s: %d %s, %s", name, count, fate, why)
        for code in listing.speechless:
            setup_logging().warning("%s: its captions file has no column of language %s", name, code)


def _check_places(name: str, split: FolderSplit) -> None:
    if not Path(split.path).is_dir():
        fault = "is not a folder" if Path(split.path).exists() else "does not exist"
        raise DataError(message(f"{split.path} (splits.{name}.path) {fault}", fix="correct it"))
    if split.captions_file is not None and not Path(split.captions_file.file).is_file():
        what = f"{split.captions_file.file} (splits.{name}.captions_file.file) does not exist"
        raise DataError(message(what, fix="correct it"))


def _lack(entry: Entry, class_id: int | None, language: str | None) -> str | None:
    """Say what an entry lacks; a caption in ``language``, or a label if that is None."""
    if entry.size is None:
        return _NO_PICTURE
    if language is None:
        return _NO_LABEL if class_id is None else None
    return None if entry.text or language in dict(entry.captions) else _NO_CAPTION


def _captions(root: Path, row: Mapping[str, Any], language: str) -> dict[str, str] | None:
    """Return the captions of a row by language, None if they are not UTF-8."""
    if row["captions"] is not None:
        captions: dict[str, str] = json.loads(row["captions"])
        return captions
    if row["text"] is None:
        return {}
    try:
        text = _read(root / _decode(row["text"])).decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return None
    return {language: text} if text else {}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise DataError(
            message(f"{path} could be read when it was listed, and cannot now ({why})", fix="run ingest again")
        ) from error


def _encode(path: str) -> bytes:
    return path.encode("utf-8", "surrogatepass")


def _decode(path: bytes) -> str:
    return path.decode("utf-8", "surrogatepass")


def _shown(path: str) -> str:
    return path.encode("utf-8", "backslashreplace").decode()


def _reasons(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{count} with {why}" for why, count in reasons.items())
