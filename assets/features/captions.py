"""The captions of accepted training pairs, shard by shard: that of the index, and others that KEY.json holds."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from assets.errors import DataError, message
from assets.features.config import INDEX_CAPTION
from assets.index import accepted_rows
from assets.members import open_shard
from assets.progress import Stage
from assets.shard_cache import ShardCache
from assets.shard_download import is_url

SPLIT = "train"


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
        DataError: No pair is accepted, or some lack a caption of that name.
    """
    others = [name for name in names if name != INDEX_CAPTION]
    columns = ["key", "shard", "caption", *(("metadata_offset", "metadata_size") if others else ())]
    index = accepted_rows(raw, valid, columns, SPLIT)
    codes = index.column("shard").combine_chunks().dictionary_encode().indices.to_numpy()
    starts = np.flatnonzero(np.diff(codes, prepend=-1))  # the index is in shard order
    found: list[ShardCaptions] = []
    missing: dict[str, list[str]] = {name: [] for name in others}
    with stage.progress("read captions", len(starts), "shard") as progress:
        for number, (start, stop) in enumerate(pairwise([*starts.tolist(), len(codes)])):
            rows = index.slice(start, stop - start)
            captions = {INDEX_CAPTION: rows.column("caption").to_pylist()} if INDEX_CAPTION in names else {}
            if others:
                captions |= _from_json(raw, rows, others, cache, missing)
            keys: pa.StringArray = rows.column("key").combine_chunks()
            found.append(ShardCaptions(f"{SPLIT}/{number:05d}", keys, captions))
            progress.advance()
    for name, keys in missing.items():
        if keys:
            what = f"{len(keys)} of {len(index)} accepted pairs have no caption {name!r} in their KEY.json ({keys[0]})"
            fix = f"drop it from the features, or ingest a source that writes captions.{name}"
            raise DataError(message(what, fix=fix))
    return found


def _from_json(
    raw: Path, rows: pa.Table, names: Sequence[str], cache: ShardCache | None, missing: dict[str, list[str]]
) -> dict[str, list[str]]:
    """Read captions of one shard out of the members KEY.json; keys that lack one are noted."""
    shard: str = rows.column("shard")[0].as_py()
    captions: dict[str, list[str]] = {name: [] for name in names}
    places = zip(*(rows.column(name).to_pylist() for name in ("key", "metadata_offset", "metadata_size")), strict=True)
    with open_shard(shard if is_url(shard) else str(raw / shard), cache) as stream:
        for key, offset, size in places:
            stream.seek(offset)
            told = _told(stream.read(size))
            for name in names:
                text = told.get(name)
                if not isinstance(text, str):
                    missing[name].append(key)
                captions[name].append(text if isinstance(text, str) else "")
    return captions


def _told(content: bytes) -> dict[str, Any]:
    """Return ``captions`` of a KEY.json; data of others may have anything there, or no such member."""
    try:
        captions = json.loads(content)["captions"]
    except (KeyError, TypeError, ValueError):
        return {}
    return captions if isinstance(captions, dict) else {}
