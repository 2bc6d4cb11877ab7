"""The folder ``data/concepts/C``: how often each concept occurs, and in which pairs. Written here, read by all.

Layout::

    concepts.parquet   one row per concept in list order: counts in captions, pictures, and both sides of one pair
    hits.parquet       one row per accepted training pair in index order: concepts of its caption and of its picture
    summary.json       misalignment and the long tail
    manifest.json      kind "concepts"
"""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported, out of a type checker's sight

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from assets.concepts.concept_list import Concept
from assets.concepts.csr import Csr
from assets.errors import DataError, message
from assets.index import write_table
from assets.manifest import read_manifest
from assets.sources.base import frequency_thirds

KIND = "concepts"
TABLE = "concepts.parquet"
HITS = "hits.parquet"
SUMMARY = "summary.json"
UNKNOWN = -1
"""Count of pictures where nobody looked at them."""
TABLE_SCHEMA = pa.schema(
    [
        pa.field("concept_id", pa.int32(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("aliases", pa.list_(pa.string()), nullable=False),
        pa.field("text_count", pa.int64(), nullable=False),
        pa.field("image_count", pa.int64(), nullable=False),
        pa.field("joint_count", pa.int64(), nullable=False),
        pa.field("frequency", pa.string(), nullable=False),
    ]
)
HITS_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("text", pa.list_(pa.int32()), nullable=False),
        pa.field("image", pa.list_(pa.int32())),
    ]
)
_AGAIN = 'rerun its stage ("dvc repro"), or "python -m assets concepts --name NAME"'


@dataclass(frozen=True, slots=True)
class ConceptTable:
    """Concepts in list order, K of them, and the pairs that each occurs in.

    Attributes:
        names: As they are shown.
        groups: Coarse categories, empty where there are none.
        text: Pairs whose captions name the concept, int64 [K].
        image: Pairs whose pictures show it, int64 [K]; ``UNKNOWN`` where nobody looked.
        joint: Pairs with both, int64 [K]; ``UNKNOWN`` likewise.
        frequency: Thirds of the concepts by their rank: head, mid, tail.
        aliases: Other names.
    """

    names: tuple[str, ...]
    groups: tuple[str, ...]
    text: NDArray[np.int64]
    image: NDArray[np.int64]
    joint: NDArray[np.int64]
    frequency: tuple[str, ...] = ()
    aliases: tuple[tuple[str, ...], ...] = ()

    @property
    def has_images(self) -> bool:
        """Whether there is an image side."""
        return not bool((self.image == UNKNOWN).any())

    @property
    def ranked(self) -> NDArray[np.int64]:
        """The counts that concepts are ranked by: joint ones, or those of captions where there is no image side."""
        return self.joint if self.has_images else self.text


@dataclass(frozen=True, slots=True)
class Hits:
    """Which concepts occur in which of n pairs, in index order.

    Attributes:
        keys: [n].
        text: Concepts of captions, n rows.
        image: Concepts of pictures, n rows; None where nobody looked.
    """

    keys: pa.StringArray
    text: Csr
    image: Csr | None


def count_concepts(concepts: Sequence[Concept], text: Csr, image: Csr | None) -> ConceptTable:
    """Count the pairs of each concept.

    Args:
        concepts: In list order, K of them.
        text: Concepts of captions, n rows.
        image: Concepts of pictures, n rows in the same order; None where nobody looked.
    """
    size = len(concepts)
    unknown = np.full(size, UNKNOWN, dtype=np.int64)
    in_text = text.counts(size)
    joint = unknown if image is None else text.intersection(image).counts(size)
    return ConceptTable(
        names=tuple(concept.name for concept in concepts),
        groups=tuple(concept.group for concept in concepts),
        text=in_text,
        image=unknown if image is None else image.counts(size),
        joint=joint,
        frequency=tuple(frequency_thirds((in_text if image is None else joint).tolist())),
        aliases=tuple(concept.aliases for concept in concepts),
    )


def write_concepts(folder: Path, table: ConceptTable, hits: Hits) -> None:
    """Write both tables.

    Args:
        folder: An unfinished folder.
        table: From :func:`count_concepts`.
        hits: What it counted.
    """
    columns = [
        pa.array(np.arange(len(table.names), dtype=np.int32)),
        pa.array(table.names, pa.string()),
        pa.array(table.groups, pa.string()),
        pa.array(list(map(list, table.aliases)), pa.list_(pa.string())),
        *(pa.array(counts, pa.int64()) for counts in (table.text, table.image, table.joint)),
        pa.array(table.frequency, pa.string()),
    ]
    write_table(pa.Table.from_arrays(columns, schema=TABLE_SCHEMA), folder / TABLE)
    image = pa.nulls(len(hits.keys), pa.list_(pa.int32())) if hits.image is None else _lists(hits.image)
    write_table(pa.Table.from_arrays([hits.keys, _lists(hits.text), image], schema=HITS_SCHEMA), folder / HITS)


def read_concepts(folder: Path) -> ConceptTable:
    """Read concepts and their counts.

    Args:
        folder: Folder ``data/concepts/C``.

    Raises:
        DataError: It is missing, unfinished, of another kind, or not readable.
    """
    table = _read(folder, TABLE, TABLE_SCHEMA)
    return ConceptTable(
        names=tuple(table.column("name").to_pylist()),
        groups=tuple(table.column("group").to_pylist()),
        text=table.column("text_count").to_numpy(),
        image=table.column("image_count").to_numpy(),
        joint=table.column("joint_count").to_numpy(),
        frequency=tuple(table.column("frequency").to_pylist()),
        aliases=tuple(map(tuple, table.column("aliases").to_pylist())),
    )


def read_hits(folder: Path) -> Hits:
    """Read which pairs concepts occur in.

    Args:
        folder: Folder ``data/concepts/C``.

    Raises:
        DataError: It is missing, unfinished, of another kind, or not readable.
    """
    table = _read(folder, HITS, HITS_SCHEMA).combine_chunks()
    text, image = (table.column(name).combine_chunks() for name in ("text", "image"))
    return Hits(table.column("key").combine_chunks(), _rows(text), None if image.null_count else _rows(image))


def read_summary(folder: Path) -> dict[str, Any]:
    """Read summary.json.

    Args:
        folder: Folder ``data/concepts/C``.

    Raises:
        DataError: The folder is missing, unfinished or of another kind.
    """
    read_manifest(folder, KIND)
    return json.loads((folder / SUMMARY).read_text(encoding="utf-8"))


def _read(folder: Path, name: str, schema: pa.Schema) -> pa.Table:
    read_manifest(folder, KIND)
    try:
        table: pa.Table = pq.read_table(folder / name, schema=schema)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(message(f"{folder / name} is not readable as parquet ({error})", fix=_AGAIN)) from error
    return table


def _lists(found: Csr) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(found.pointer.astype(np.int32)), pa.array(found.concepts, pa.int32()))


def _rows(lists: pa.ListArray) -> Csr:
    lengths = pc.list_value_length(lists).to_numpy()
    pointer = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Csr(pointer, lists.flatten().to_numpy().astype(np.int32))
