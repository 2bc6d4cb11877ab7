"""Second pass: decide about every row of the index, in batches, and hold some 100 bytes per row."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from assets.errors import DataError, message
from assets.index import INDEX, SCHEMA, SIGNATURE_SIDE, read_index
from assets.validation.candidates import Traits, join, traits_of
from assets.validation.config import DuplicateRules, ValidationConfig
from assets.validation.duplicates import REASONS as DUPLICATE_REASONS
from assets.validation.duplicates import Hashes, Rows, find_duplicates, hash_numbers
from assets.validation.sample_rules import COLUMNS, RULES, samples_of

REASONS = (*RULES, *DUPLICATE_REASONS)
ACCEPTED = 0
UNDECLARED = "undeclared"
BATCH_ROWS = 1 << 19
_SIGNATURE_BYTES = 3 * SIGNATURE_SIDE**2


@dataclass(frozen=True, slots=True)
class Decisions:
    """What becomes of every row of the index.

    Attributes:
        reasons: 0 for an accepted row, else 1 + the number of its reason in ``REASONS``, uint8 [rows].
        values: Rejected row -> what the rule met there.
    """

    reasons: np.ndarray
    values: dict[int, str]

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


def shards_in_order(raw: Path, files: dict[str, Any]) -> dict[str, int]:
    """Count the rows of every shard and compare the names with the manifest's.

    Args:
        raw: The raw data folder.
        files: The manifest's files.

    Returns:
        Shard -> rows, in index order.

    Raises:
        DataError: The index and the folder speak of other shards, or the index is not in shard order.
    """
    runs: list[tuple[str, int]] = []
    for batch in pq.ParquetFile(raw / INDEX, read_dictionary=["shard"]).iter_batches(BATCH_ROWS, columns=["shard"]):
        column = batch.column("shard")
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
    stored = {name for name in files if name.endswith(".tar")}
    if lost := sorted(set(shards) - stored):
        raise DataError(message(f"{raw}: shard {lost[0]} is in {INDEX} but not in the manifest", fix=fix))
    if extra := sorted(stored - set(shards)):
        raise DataError(message(f"{raw}: shard {extra[0]} has no rows in {INDEX}", fix=fix))
    return shards


def batches(raw: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield columns of the index in parts of at most ``BATCH_ROWS`` rows."""
    yield from pq.ParquetFile(raw / INDEX).iter_batches(batch_size=BATCH_ROWS, columns=columns)


def signature_parts(raw: Path) -> Iterator[np.ndarray]:
    """Yield the signatures of all rows in parts, uint8 [rows, 972]; that of a picture without one is all 0.

    Raises:
        DataError: A value is not a signature.
    """
    file = pq.ParquetFile(raw / INDEX)
    for group in range(file.num_row_groups):  # one reader over all groups would keep what it has read
        column = file.read_row_group(group, columns=["signature"]).column(0).combine_chunks()
        lengths = np.diff(np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1])
        if not np.isin(lengths, (0, _SIGNATURE_BYTES)).all():
            wrong = "index.parquet: column signature holds values of another length"
            raise DataError(message(wrong, str(np.unique(lengths)), f"{_SIGNATURE_BYTES} bytes", "run ingest again"))
        part = np.zeros((len(column), _SIGNATURE_BYTES), dtype=np.uint8)
        part[lengths > 0] = np.frombuffer(b"".join(column.to_pylist()), np.uint8).reshape(-1, _SIGNATURE_BYTES)
        yield part


def read_signatures(raw: Path, rows: np.ndarray) -> np.ndarray:
    """Read the signatures of some rows.

    Args:
        raw: The raw data folder.
        rows: Ascending, int64 [rows].

    Returns:
        uint8 [rows, 972].
    """
    wanted = np.empty((len(rows), _SIGNATURE_BYTES), dtype=np.uint8)
    start = 0
    for part in signature_parts(raw):
        low, high = np.searchsorted(rows, (start, start + len(part)))
        wanted[low:high] = part[rows[low:high] - start]
        start += len(part)
    return wanted


def _traits(raw: Path, rules: DuplicateRules) -> Traits:
    """Measure all pictures, unless no rule asks how they look."""
    return join([traits_of(part) for part in signature_parts(raw)] if rules.near or rules.evaluation else [])


def decide(raw: Path, contrast: np.ndarray, config: ValidationConfig, train: np.ndarray) -> Decisions:
    """Apply every rule.

    Args:
        raw: The raw data folder.
        contrast: What the scan measured, float32 [rows].
        config: The limits.
        train: Which rows belong to training, bool [rows].

    Returns:
        The decisions, one reason per rejected row.
    """
    reasons = np.zeros(len(contrast), dtype=np.uint8)
    values: dict[int, str] = {}
    hashes: dict[str, list[np.ndarray]] = {name: [] for name in ("image_hash", "caption_hash")}
    start = 0
    for batch in batches(raw, [*COLUMNS, *hashes]):
        stop = start + batch.num_rows
        samples = samples_of(batch, contrast[start:stop])
        for number, rule in enumerate(RULES.values(), start=1):
            hits = rule(samples, config)
            for row, value in zip((hits.rows + start).tolist(), hits.values, strict=True):
                if reasons[row] == ACCEPTED:
                    reasons[row], values[row] = number, value
        for name, parts in hashes.items():
            parts.append(hash_numbers(batch.column(name), name))
        start = stop
    table = Hashes(*(np.concatenate(parts) for parts in hashes.values()), traits=_traits(raw, config.duplicates))
    kept = reasons == ACCEPTED
    rows = Rows(np.flatnonzero(kept & train), np.flatnonzero(kept & ~train))
    found = find_duplicates(
        table, rows, config.duplicates, config.caption.max_repeats, lambda wanted: read_signatures(raw, wanted)
    )
    keys = read_index(raw, ["key"])["key"]
    for reason, matches in found.items():
        reasons[matches.rows] = REASONS.index(reason) + 1
        partners = keys.take(pa.array(matches.partners)).to_pylist()
        values.update(zip(matches.rows.tolist(), partners, strict=True))
    return Decisions(reasons, values)


def split_table(
    raw: Path, declared: dict[str, dict[str, Any]], decisions: Decisions, config: ValidationConfig
) -> pd.DataFrame:
    """Count per split; the checks of the table ``splits`` look at the result.

    Args:
        raw: The raw data folder.
        declared: ``splits`` of dataset.json.
        decisions: About every row.
        config: For the limits.

    Returns:
        One row per split, declared or found.
    """
    split = read_index(raw, ["split"])["split"].to_numpy()
    rejected = decisions.reasons != ACCEPTED
    repeated = repeated_keys(raw)
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys([*declared, *pd.unique(split).tolist()]):
        here = split == name
        role = declared.get(name, {}).get("role", UNDECLARED)
        found, lost = int(here.sum()), int((here & rejected).sum())
        limits = config.limits
        rows.append(
            {
                "split": name,
                "role": role,
                "declared": int(declared.get(name, {}).get("samples", 0)),
                "found": found,
                "repeated_keys": int((here & repeated).sum()),
                "accepted": int((here & ~rejected).sum()),
                "rejected": lost,
                "accounted": int((here & ~rejected).sum()) + lost,
                "rejected_share": lost / max(found, 1),
                "max_rejected_share": limits.max_rejected_train if role == "train" else limits.max_rejected_evaluation,
                "warn_rejected_share": limits.warn_rejected_train if role == "train" else 1.0,
            }
        )
    return pd.DataFrame(rows)


def repeated_keys(raw: Path) -> np.ndarray:
    """Say which rows carry a key that stood before, bool [rows]."""
    hash_array = pd.util.hash_array  # pyright: ignore[reportAttributeAccessIssue]
    parts = [hash_array(batch.column("key").to_numpy(zero_copy_only=False)) for batch in batches(raw, ["key"])]
    numbers = pd.Series(np.concatenate(parts))
    # keys of equal hash are compared as they are; almost always there are none
    suspects = np.flatnonzero(numbers.duplicated(keep=False).to_numpy())
    repeated = np.zeros(len(numbers), dtype=bool)
    if len(suspects):
        keys = read_index(raw, ["key"])["key"].take(pa.array(suspects)).to_pandas()
        repeated[suspects[keys.duplicated().to_numpy()]] = True
    return repeated
