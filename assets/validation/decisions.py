"""Second pass: decide about every row of the index, in batches, and hold some 100 bytes per row."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from assets.errors import DataError, message
from assets.index import INDEX, SCHEMA, read_index
from assets.index_parts import SplitCodes, batches, take_rows
from assets.validation.config import ValidationConfig
from assets.validation.duplicates import REASONS as DUPLICATE_REASONS
from assets.validation.duplicates import Hashes, Rows, among, find_duplicates, frequent, hash_numbers
from assets.validation.measures import Measures
from assets.validation.sample_rules import COLUMNS, NO_PASSES, RULES, PassResults, samples_of
from assets.validation.scan import shard_facts

REASONS = (*RULES, *DUPLICATE_REASONS)
ACCEPTED = 0
UNDECLARED = "undeclared"


@dataclass(frozen=True, slots=True)
class Decisions:
    """What becomes of every row of the index.

    Attributes:
        reasons: 0 for an accepted row, else 1 + the number of its reason in ``REASONS``, uint8 [rows].
        rejected: The rejected rows, ascending, int64.
        values: What the rule met in each of them, strings.
    """

    reasons: np.ndarray
    rejected: np.ndarray
    values: pa.Array

    def values_of(self, rows: np.ndarray | Sequence[int]) -> pa.Array:
        """Return what the rules met in some rejected rows, in the order given."""
        return self.values.take(pa.array(np.searchsorted(self.rejected, rows)))

    def counts(self) -> dict[str, int]:
        """Return the number of rejected rows for each reason, zeros included."""
        numbers = np.bincount(self.reasons, minlength=len(REASONS) + 1)
        return {reason: int(numbers[place]) for place, reason in enumerate(REASONS, start=1)}


def check_schema(raw: Path) -> None:
    """Refuse an index of another layout, before any work.

    Raises:
        DataError: Naming the columns that differ.
    """
    read_index(raw, columns=[])
    schema = pq.read_schema(raw / INDEX)
    got = {field.name: str(field.type) for field in schema}
    wanted = {field.name: str(field.type) for field in SCHEMA}
    if wrong := [name for name in wanted if got.get(name) != wanted[name]]:
        raise DataError(
            message(
                f"{raw / INDEX}: wrong columns",
                ", ".join(f"{name} {got.get(name, 'missing')}" for name in wrong),
                ", ".join(f"{name} {wanted[name]}" for name in wrong),
                "run ingest again with this version",
            )
        )


def shards_in_order(raw: Path, manifest: dict[str, Any]) -> dict[str, int]:
    """Count the rows of every shard and compare the names with the manifest's.

    Args:
        raw: The raw data folder.
        manifest: Its manifest.

    Returns:
        Shard -> rows, in index order.

    Raises:
        DataError: The index and the folder speak of other shards, or the index is not in shard order.
    """
    runs: list[tuple[str, int]] = []
    for batch in batches(raw, ["shard"]):
        column = batch.column("shard").dictionary_encode()
        codes = column.indices.to_numpy()
        starts = np.flatnonzero(np.diff(codes, prepend=-1))
        names = column.dictionary.take(pa.array(codes[starts])).to_pylist()
        for name, length in zip(names, np.diff(np.append(starts, len(codes))).tolist(), strict=True):
            if runs and runs[-1][0] == name:
                length += runs.pop()[1]
            runs.append((name, length))
    shards = dict(runs)
    fix = "run ingest again"
    if len(shards) != len(runs):
        raise DataError(message(f"{raw / INDEX} is not in shard order", fix=fix))
    stored = set(shard_facts(manifest))
    if lost := sorted(set(shards) - stored):
        raise DataError(message(f"{raw}: shard {lost[0]} is in {INDEX} but not in the manifest", fix=fix))
    if extra := sorted(stored - set(shards)):
        raise DataError(message(f"{raw}: shard {extra[0]} has no rows in {INDEX}", fix=fix))
    return shards


class _Ledger:
    """Reasons and values under way; the first rule that rejects a row keeps it."""

    def __init__(self, num_rows: int) -> None:
        self.reasons = np.zeros(num_rows, dtype=np.uint8)
        self._rows: list[np.ndarray] = [np.empty(0, dtype=np.int64)]
        self._values: list[pa.Array] = [pa.array([], pa.string())]

    def reject(self, reason: str, rows: np.ndarray, values: pa.Array) -> None:
        """Note one rule's hits; those in rows that are rejected already do not count."""
        first = self.reasons[rows] == ACCEPTED
        self.reasons[rows[first]] = REASONS.index(reason) + 1
        self._rows.append(rows[first])
        self._values.append(values.filter(pa.array(first)))

    def close(self) -> Decisions:
        """Return what was noted."""
        rows = np.concatenate(self._rows)
        order = np.argsort(rows)
        return Decisions(self.reasons, rows[order], pa.concat_arrays(self._values).take(pa.array(order)))


def decide(
    raw: Path, measures: Measures, config: ValidationConfig, train: np.ndarray, passes: PassResults = NO_PASSES
) -> Decisions:
    """Apply every rule.

    Args:
        raw: The raw data folder.
        measures: What the scan measured.
        config: The limits.
        train: Which rows belong to training, bool [rows].
        passes: What the passes beside the scan found.

    Returns:
        The decisions, one reason per rejected row.
    """
    contrast = measures.contrast()
    ledger = _Ledger(len(contrast))
    hashes: dict[str, list[np.ndarray]] = {name: [] for name in ("image_hash", "caption_hash")}
    start = 0
    for batch in batches(raw, [*COLUMNS, *hashes]):
        stop = start + batch.num_rows
        samples = samples_of(batch, contrast[start:stop], passes.part(start, stop))
        for reason, rule in RULES.items():
            hits = rule(samples, config)
            ledger.reject(reason, hits.rows + start, pa.array(hits.values, pa.string()))
        for name, parts in hashes.items():
            parts.append(hash_numbers(batch.column(name), name))
        start = stop
    del contrast
    table = Hashes(*(np.concatenate(hashes.pop(name)) for name in list(hashes)), pictures=measures)
    kept = ledger.reasons == ACCEPTED
    rows = Rows(np.flatnonzero(kept & train), np.flatnonzero(kept & ~train))
    for reason, matches in find_duplicates(table, rows, config.duplicates, config.caption.max_repeats).items():
        keys = take_rows(raw, ["key"], matches.partners)["key"].combine_chunks()
        ledger.reject(reason, matches.rows, keys)
    return ledger.close()


def split_table(
    raw: Path, splits: SplitCodes, declared: dict[str, dict[str, Any]], decisions: Decisions, config: ValidationConfig
) -> pd.DataFrame:
    """Count per split; the checks of the table ``splits`` look at the result.

    Args:
        raw: The raw data folder.
        splits: Of every row.
        declared: ``splits`` of dataset.json.
        decisions: About every row.
        config: For the limits.

    Returns:
        One row per split, declared or found.
    """
    counted = {
        "found": splits.codes,
        "accepted": splits.codes[decisions.reasons == ACCEPTED],
        "rejected": splits.codes[decisions.rejected],
        "repeated_keys": splits.codes[repeated_keys(raw)],
    }
    counts = {what: np.bincount(codes, minlength=len(splits.names)).tolist() for what, codes in counted.items()}
    rows: list[dict[str, Any]] = []
    limits = config.limits
    for name in dict.fromkeys([*declared, *splits.names]):
        role = declared.get(name, {}).get("role", UNDECLARED)
        place = splits.names.index(name) if name in splits.names else None
        here = {what: 0 if place is None else numbers[place] for what, numbers in counts.items()}
        rows.append(
            {
                "split": name,
                "role": role,
                "declared": int(declared.get(name, {}).get("samples", 0)),
                "found": here["found"],
                "repeated_keys": here["repeated_keys"],
                "accepted": here["accepted"],
                "rejected": here["rejected"],
                "accounted": here["accepted"] + here["rejected"],
                "rejected_share": here["rejected"] / max(here["found"], 1),
                "max_rejected_share": limits.max_rejected_train if role == "train" else limits.max_rejected_evaluation,
                "warn_rejected_share": limits.warn_rejected_train if role == "train" else 1.0,
            }
        )
    return pd.DataFrame(rows)


def repeated_keys(raw: Path) -> np.ndarray:
    """Return the rows whose key stood before, ascending, int64."""
    hash_array = pd.util.hash_array  # pyright: ignore[reportAttributeAccessIssue]
    parts = [
        hash_array(batch.column("key").to_numpy(zero_copy_only=False), categorize=False)
        for batch in batches(raw, ["key"])
    ]
    numbers = np.concatenate([np.empty(0, dtype=np.uint64), *parts])
    # keys of equal hash are compared as they are; almost always there are none
    suspects = np.flatnonzero(among(numbers, frequent(numbers, 1)))
    keys = take_rows(raw, ["key"], suspects)["key"].to_pandas()
    return suspects[keys.duplicated().to_numpy()]
