"""index.parquet: one row per sample, with its place, its measures and its hashes, so that no tar need be opened."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from assets.atomic import atomic_file
from assets.errors import DataError, message
from assets.picture import Picture, PictureError, TooLargeError
from assets.placement import Placement
from assets.sources.base import Sample

INDEX = "index.parquet"
SCHEMA = pa.schema(
    [
        pa.field(name, kind, nullable=False)
        for name, kind in {
            "key": pa.string(),
            "split": pa.string(),
            "shard": pa.string(),
            "offset": pa.int64(),
            "size": pa.int64(),
            "image_offset": pa.int64(),
            "image_size": pa.int64(),
            "metadata_offset": pa.int64(),
            "metadata_size": pa.int64(),
            "extension": pa.string(),
            "caption": pa.string(),
            "width": pa.int32(),
            "height": pa.int32(),
            "caption_words": pa.int32(),
            "caption_chars": pa.int32(),
            "class_id": pa.int32(),
            "image_hash": pa.string(),
            "caption_hash": pa.string(),
        }.items()
    ]
)
ROW_GROUP = 1 << 16
NO_CLASS = -1
"""``class_id`` of samples without a label."""


def content_hash(content: bytes) -> str:
    """Return 16 hex digits of BLAKE2b over ``content``."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _sides(image: bytes) -> tuple[int, int]:
    """Return width and height by the header; no pixel is decoded."""
    try:
        picture = Picture(image)
    except TooLargeError as refused:
        return refused.width, refused.height
    except PictureError:
        return 0, 0
    return picture.width, picture.height


def _class_id(metadata: Mapping[str, Any]) -> int:
    """Return the class of a labelled sample; other data may have other things under that name."""
    value = metadata.get("class_id")
    return value if isinstance(value, int) and 0 <= value < 1 << 31 else NO_CLASS


def index_row(sample: Sample, split: str, shard: str, place: Placement) -> dict[str, Any]:
    """Measure one sample.

    Args:
        sample: The sample as written.
        split: Name of its split.
        shard: Its file relative to the data folder, e.g. ``"train/00000.tar"``.
        place: Where it lies in that file.

    Returns:
        A row of ``SCHEMA``. Width and height are those of the picture's header, 0 where it has none; whether its
        pixels can be decoded is found by validation.
    """
    width, height = _sides(sample.image)
    return {
        "key": sample.key,
        "split": split,
        "shard": shard,
        "offset": place.offset,
        "size": place.size,
        "image_offset": place.image_offset,
        "image_size": place.image_size,
        "metadata_offset": place.metadata_offset,
        "metadata_size": place.metadata_size,
        "extension": sample.extension,
        "caption": sample.caption,
        "width": width,
        "height": height,
        "caption_words": len(sample.caption.split()),
        "caption_chars": len(sample.caption),
        "class_id": _class_id(sample.metadata),
        "image_hash": content_hash(sample.image),
        "caption_hash": content_hash(sample.caption.encode()),
    }


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table as parquet, atomically and with bytes that depend on its content alone."""
    with atomic_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=ROW_GROUP)


def rows_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return index rows as a table of ``SCHEMA``."""
    return pa.Table.from_pylist([dict(row) for row in rows], schema=SCHEMA)


def accepted_rows(raw: Path, valid: Path, columns: Sequence[str], split: str) -> pa.Table:
    """Read the index rows of a split that validation accepted.

    Args:
        raw: Folder of ``ingest``.
        valid: Folder of ``validate``.
        columns: The columns wanted, ``key`` among them.
        split: The split.

    Returns:
        The rows in index order.

    Raises:
        DataError: The split has no accepted pair, or validation accepted keys that the index does not have.
    """
    index = read_index(raw, columns, split)
    chosen = pq.read_table(valid / "accepted.parquet", columns=["key"], filters=pc.field("split") == split)
    index = index.filter(pc.field("key").isin(chosen.column("key").combine_chunks()))
    if not len(index):
        fix = 'look at rejects.parquet, or rerun "dvc repro validate" if it is of other data'
        raise DataError(message(f"{valid} accepts no pair of split {split} of {raw}", fix=fix))
    if len(index) != len(chosen):
        raise DataError(
            message(
                f"{valid} does not belong to {raw}: accepted keys of split {split} found in the index",
                len(index),
                len(chosen),
                'rerun "dvc repro validate"',
            )
        )
    return index


def read_index(folder: Path, columns: Sequence[str] | None = None, split: str | None = None) -> pa.Table:
    """Read the index of a raw data folder.

    Args:
        folder: A folder like ``data/raw/emoji``.
        columns: The columns wanted; all of them when None.
        split: Only the rows of this split; all of them when None.

    Returns:
        The rows in shard order.

    Raises:
        DataError: The index is missing, damaged, or lacks the split.
    """
    path = folder / INDEX
    if not path.is_file():
        raise DataError(message(f"{path} does not exist", fix='run "python -m assets ingest" (or "dvc repro") first'))
    filters = None if split is None else [("split", "==", split)]
    try:
        table: pa.Table = pq.read_table(path, columns=None if columns is None else list(columns), filters=filters)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(message(f"{path} is not readable as parquet ({error})", fix="run ingest again")) from error
    if split is not None and table.num_rows == 0:
        names = sorted(set(pq.read_table(path, columns=["split"])["split"].to_pylist()))
        raise DataError(message(f"{path} has no rows of this split", split, ", ".join(names)))
    return table
