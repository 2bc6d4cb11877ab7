"""What a source knows of its own pairs, to judge a policy by: planted noise and planted copies, out of KEY.json."""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assets.members import locate_shard, open_shard
from assets.metadata import parse_metadata
from assets.progress import Stage
from assets.shard_cache import ShardCache

NOISE, COPY = "noise", "duplicate_of"
_TRIED = 16


@dataclass(frozen=True, slots=True)
class Truth:
    """The truth about the pairs of a pool.

    Attributes:
        noise: Planted kind of noise, None for a true caption, [n].
        original: Key of the pair whose picture each one shows again, its own key where it shows none, [n].
    """

    noise: list[str | None]
    original: list[str]


def read_truth(raw: Path, places: pa.Table, stage: Stage, cache: ShardCache | None = None) -> Truth | None:
    """Read the truth about a pool.

    Args:
        raw: Folder of ``ingest``.
        places: Columns key, shard, metadata_offset and metadata_size of the pool, in index order.
        stage: For progress.
        cache: Knows the object store, for shards that lie in one.

    Returns:
        None where the first pairs say nothing of noise or copies; then the others are not read.
    """
    told = _metadata(raw, places.slice(0, _TRIED), cache)
    if not any(NOISE in facts or COPY in facts for facts in told):
        return None
    noise: list[str | None] = []
    copies: dict[str, str] = {}
    keys: list[str] = places.column("key").to_pylist()
    codes = places.column("shard").combine_chunks().dictionary_encode().indices.to_numpy()
    bounds = np.flatnonzero(np.diff(codes, prepend=-1, append=-1)).tolist()
    with stage.progress("read the truth", len(keys), "pair") as progress:
        for start, stop in pairwise(bounds):
            for row, facts in enumerate(_metadata(raw, places.slice(start, stop - start), cache), start):
                kind, of = facts.get(NOISE), facts.get(COPY)
                noise.append(kind if isinstance(kind, str) else None)
                if isinstance(of, str):
                    copies[keys[row]] = of
            progress.advance(stop - start)
    return Truth(noise, [_root(key, copies) for key in keys])


def _metadata(raw: Path, places: pa.Table, cache: ShardCache | None) -> list[dict[str, Any]]:
    """Read KEY.json of some pairs of one shard; of the first shard only, where there are more."""
    shard: str = places.column("shard")[0].as_py()
    found: list[dict[str, Any]] = []
    with open_shard(locate_shard(raw, shard), cache) as stream:
        for row in places.select(["shard", "metadata_offset", "metadata_size"]).to_pylist():
            if row["shard"] == shard:
                stream.seek(row["metadata_offset"])
                found.append(parse_metadata(stream.read(row["metadata_size"])))
    return found


def _root(key: str, copies: dict[str, str]) -> str:
    """Follow copies of copies to the first picture; each points to an earlier one, so there is an end."""
    seen = {key}
    while (earlier := copies.get(key)) is not None and earlier not in seen:
        seen.add(key := earlier)
    return key


def judge(truth: Truth, kept: NDArray[np.bool_]) -> dict[str, Any]:
    """Compare the pool with what is kept of it.

    Args:
        truth: About n pairs.
        kept: bool [n].

    Returns:
        ``noise``: pairs with a false caption in the pool and among the kept, shares of both, the share of them that is
        gone (``recall``), and pool and kept by kind. ``copies``: pairs beyond the first of each picture, likewise.
    """
    chosen = np.flatnonzero(kept).tolist()
    pool, stays = Counter(truth.noise), Counter(truth.noise[row] for row in chosen)
    kinds = sorted(kind for kind in pool if kind is not None)
    noise = _compared(len(kept) - pool[None], len(chosen) - stays[None], len(kept), len(chosen))
    before = len(kept) - len(set(truth.original))
    after = len(chosen) - len({truth.original[row] for row in chosen})
    return {
        "noise": {**noise, "by_kind": {kind: {"pool": pool[kind], "kept": stays[kind]} for kind in kinds}},
        "copies": _compared(before, after, len(kept), len(chosen)),
    }


def _compared(before: int, after: int, pool: int, kept: int) -> dict[str, float | int | None]:
    return {
        "pool": before,
        "kept": after,
        "pool_share": before / max(pool, 1),
        "kept_share": after / max(kept, 1),
        "recall": (before - after) / before if before else None,
    }
