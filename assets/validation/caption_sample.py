"""A sample of the accepted captions of every split, for what is too slow to ask of millions: language and words.

A caption is in it for the hash of its key alone. So the sample depends neither on order nor on shards, and when a
thousandth of the data is replaced, about a thousandth of the sample is.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from assets.index_parts import SplitCodes, batches, take_rows
from assets.validation.decisions import ACCEPTED


def key_hashes(keys: pa.Array) -> np.ndarray:
    """Return 64-bit hashes of keys, the same on every machine, uint64 [rows]."""
    hash_array = pd.util.hash_array  # pyright: ignore[reportAttributeAccessIssue]
    return hash_array(keys.to_numpy(zero_copy_only=False), categorize=False)


def sample_captions(raw: Path, splits: SplitCodes, reasons: np.ndarray, most: int) -> dict[str, list[str]]:
    """Choose and read captions.

    Args:
        raw: The raw data folder.
        splits: Of every row.
        reasons: 0 for an accepted row, uint8 [rows].
        most: Captions per split.

    Returns:
        Split -> the captions of the accepted rows whose keys have the lowest hashes, in index order.
    """
    lowest = [np.empty(0, np.uint64) for _ in splits.names]
    chosen = [np.empty(0, np.int64) for _ in splits.names]
    start = 0
    for batch in batches(raw, ["key"]):
        here = slice(start, start + batch.num_rows)
        hashes = key_hashes(batch.column("key"))
        for code in np.unique(splits.codes[here]).tolist():
            rows = np.flatnonzero((splits.codes[here] == code) & (reasons[here] == ACCEPTED))
            together = np.concatenate([lowest[code], hashes[rows]])
            # equal hashes stand in index order, so that the choice among them is settled too
            best = np.argsort(together, kind="stable")[:most]
            lowest[code], chosen[code] = together[best], np.concatenate([chosen[code], rows + start])[best]
        start = here.stop
    captions = take_rows(raw, ["caption"], np.concatenate([np.sort(rows) for rows in chosen]))["caption"]
    found: dict[str, list[str]] = {}
    start = 0
    for name, rows in zip(splits.names, chosen, strict=True):
        found[name] = captions.slice(start, len(rows)).to_pylist()
        start += len(rows)
    return found
