"""Pictures that look nearly the same: validation's rule about near-duplicates, as a step that a policy can take.

SemDeDup compares what pictures mean to a model, so that it also drops different pictures of one subject. This step
compares how they look (``assets.validation.duplicates``) and needs no model; it decodes every picture of the pool once.
"""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported, out of a type checker's sight

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from assets.index import read_index
from assets.progress import Stage
from assets.shard_cache import ShardCache
from assets.validation.config import DuplicateRules
from assets.validation.duplicates import near, near_pairs
from assets.validation.scan import scan


def keep(
    raw: Path,
    keys: pa.StringArray,
    max_distance: float,
    work: Path,
    workers: int,
    stage: Stage,
    cache: ShardCache | None,
) -> NDArray[np.bool_]:
    """Drop each pair whose picture looks nearly like that of an earlier one that stays.

    Args:
        raw: Folder of ``ingest``.
        keys: The training pairs to look at, in index order, [m].
        max_distance: Up to which pictures are nearly the same (``assets.validation.resemblance``).
        work: Where shards that were measured wait.
        workers: Processes that decode.
        stage: For progress.
        cache: Knows the object store, for shards that lie in one.

    Returns:
        bool [m].
    """
    index = read_index(raw, ["key", "shard"], "train")
    counts = index.column("shard").combine_chunks().value_counts()  # in order of appearance
    shards = dict(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True))
    pictures = scan(stage, raw, shards, work, workers, True, cache)
    known: pa.StringArray = index.column("key").combine_chunks()
    rows: NDArray[np.int64] = pc.index_in(keys, value_set=known).to_numpy().astype(np.int64)
    rules = DuplicateRules(exact=False, near=True, evaluation=False, max_distance=max_distance)
    matches = near(near_pairs(pictures, rows, 0, rules), rows)
    return ~np.isin(rows, matches.rows)
