"""The captions of accepted pairs: that of the index, and others that KEY.json holds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from assets.errors import DataError, message
from assets.features.config import INDEX_CAPTION
from assets.index import accepted_rows
from assets.members import locate_shard, open_shard
from assets.metadata import further_captions, parse_metadata
from assets.progress import Stage
from assets.shard_cache import ShardCache

SPLIT = "train"
_PLACE = ("metadata_offset", "metadata_size")


@dataclass(frozen=True, slots=True)
class ShardCaptions:
    """The accepted pairs of one shard.

    Attributes:
        name: Of the shard in a sidecar; the sidecar joins by key, so a number does where the shard is an address.
        keys: Sample keys in index order, [n].
        captions: Name of a caption -> the caption of each pair, [n].
    """

    name: str
    keys: pa.StringArray
    captions: dict[str, list[str]]


def read_captions(
    raw: Path, valid: Path, names: Sequence[str], cache: ShardCache | None, stage: Stage
) -> list[ShardCaptions]:
    """Read captions of all accepted training pairs.

    Args:
        raw: Folder of ``ingest``.
        valid: Folder of ``validate``.
        names: The captions wanted.
        cache: Knows the object store, for shards that lie in one.
        stage: For progress.

    Returns:
        One entry per shard that holds accepted pairs, in index order.

    Raises:
        DataError: No pair is accepted, or some lack a caption of that name, or have a blank one.
    """
    others = [name for name in names if name != INDEX_CAPTION]
    columns = ["key", "shard", "caption", *(_PLACE if others else ())]
    shards = _by_shard(accepted_rows(raw, valid, columns, SPLIT))
    found: list[ShardCaptions] = []
    missing: dict[str, list[str]] = {name: [] for name in others}
    with stage.progress("read captions", len(shards), "shard") as progress:
        for number, rows in enumerate(shards):
            captions = {INDEX_CAPTION: rows.column("caption").to_pylist()} if INDEX_CAPTION in names else {}
            if others:
                captions |= _named(raw, rows, others, cache, missing)
            keys: pa.StringArray = rows.column("key").combine_chunks()
            found.append(ShardCaptions(f"{SPLIT}/{number:05d}", keys, captions))
            progress.advance()
    total = sum(map(len, shards))
    for name, keys in missing.items():
        if keys:
            what = f"{len(keys)} of {total} accepted pairs have no caption {name!r} in their KEY.json, or a blank one"
            fix = f"drop it from the features, or ingest a source that writes captions.{name} for every pair"
            raise DataError(message(f"{what} ({keys[0]})", fix=fix))
    return found


def read_further_captions(
    raw: Path, valid: Path, split: str, cache: ShardCache | None, stage: Stage
) -> dict[str, list[str | None]]:
    """Read every caption that the accepted samples of a split have in KEY.json.

    Args:
        raw: Folder of ``ingest``.
        valid: Folder of ``validate``.
        split: The split.
        cache: Knows the object store, for shards that lie in one.
        stage: For progress.

    Returns:
        Name of a caption -> the caption of each sample in index order, None for those that lack it.

    Raises:
        DataError: No sample is accepted.
    """
    index = accepted_rows(raw, valid, ["key", "shard", *_PLACE], split)
    shards = _by_shard(index)
    found: dict[str, list[str | None]] = {}
    row = 0
    with stage.progress(f"read captions of {split}", len(shards), "shard") as progress:
        for rows in shards:
            for _, told in _told(raw, rows, cache):
                for name, text in told.items():
                    if isinstance(text, str):
                        found.setdefault(name, [None] * len(index))[row] = text
                row += 1
            progress.advance()
    return found


def _by_shard(index: pa.Table) -> list[pa.Table]:
    """Cut an index, which is in shard order, into its shards."""
    codes = index.column("shard").combine_chunks().dictionary_encode().indices.to_numpy()
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    return [index.slice(start, stop - start) for start, stop in pairwise([*starts.tolist(), len(codes)])]


def _named(
    raw: Path, rows: pa.Table, names: Sequence[str], cache: ShardCache | None, missing: dict[str, list[str]]
) -> dict[str, list[str]]:
    """Read captions of one shard by their names; keys that lack one, or have a blank one, are noted."""
    captions: dict[str, list[str]] = {name: [] for name in names}
    for key, told in _told(raw, rows, cache):
        for name in names:
            text = told.get(name)
            if not isinstance(text, str) or not text.strip():
                missing[name].append(key)
                text = ""
            captions[name].append(text)
    return captions


def _told(raw: Path, rows: pa.Table, cache: ShardCache | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield key and ``captions`` of the samples of one shard, out of their members KEY.json."""
    shard: str = rows.column("shard")[0].as_py()
    places = zip(*(rows.column(name).to_pylist() for name in ("key", *_PLACE)), strict=True)
    with open_shard(locate_shard(raw, shard), cache) as stream:
        for key, offset, size in places:
            stream.seek(offset)
            yield key, further_captions(parse_metadata(stream.read(size)))
