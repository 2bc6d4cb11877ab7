"""The rows of a table as download and shards need them: with keys, captions, and the fault of those that have one.

A pair's key is a hash of its address and caption, so it stays the same wherever in the table the row stands, whatever
rows come before or behind it, and whatever happens to the download. An address is fetched once, however many captions
it has.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from assets.atomic import atomic_file
from assets.sources.url_table import captions
from assets.sources.url_table.config import Columns
from assets.sources.url_table.reasons import DUPLICATE, MALFORMED, NO_CAPTION, NOT_A_URL
from assets.sources.url_table.table import Cells, Table, looks_like_url

BATCH = 1 << 14
FAULTS = ("", MALFORMED, NOT_A_URL, NO_CAPTION, DUPLICATE)
"""What ``Rows.faults`` counts in; 0 is a row to be downloaded."""
_SCHEMA = pa.schema(
    {"url": pa.string(), "caption": pa.string(), "metadata": pa.string(), "url_id": pa.uint64(), "pair_id": pa.uint64()}
)
# what stands in addresses for itself; the rest is percent-encoded, as a browser does
_KEPT = "%/:=&?~#+!$,;'@()*[]"


@dataclass(frozen=True, slots=True)
class Rows:
    """A table in our form.

    Attributes:
        file: A parquet file with one row per row of the table: ``url``, ``caption``, ``metadata`` (JSON: captions in
            further languages and what the table says besides), ``url_id``, ``pair_id``.
        url_ids: Hash of the address of each row, [n].
        pair_ids: Hash of address and caption of each row, [n].
        faults: Place in ``FAULTS`` of each row, [n].
        digest: Names the content of all rows.
        speechless: Languages that the table has no column of.
    """

    file: Path
    url_ids: NDArray[np.uint64]
    pair_ids: NDArray[np.uint64]
    faults: NDArray[np.int8]
    digest: str
    speechless: tuple[str, ...]

    def batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield the rows in pieces, each with the number of its first row."""
        begin = 0
        with pq.ParquetFile(self.file) as opened:
            for batch in opened.iter_batches(BATCH):
                yield begin, batch
                begin += batch.num_rows


def key_of(pair_id: int, split: str) -> str:
    """Return the key of a pair; in splits other than ``train`` their name stands in front.

    Args:
        pair_id: Hash of address and caption.
        split: Name of the split.
    """
    return f"{pair_id:016x}" if split == "train" else f"{split}+{pair_id:016x}"


def address(url: str) -> str:
    """Return an address as it can be sent: without blanks around it, other characters than ASCII percent-encoded.

    Args:
        url: The address as the table has it.
    """
    return quote(url.strip(), safe=_KEPT)


def read_rows(table: Table, mapping: Columns, languages: tuple[str, ...], file: Path) -> Rows:
    """Bring a table into our form.

    Args:
        table: The checked table.
        mapping: Which of its columns is what.
        languages: Codes of the captions' languages, that of the caption column first.
        file: Where to write the parquet file.

    Raises:
        DataError: The table cannot be read to its end.
    """
    digest = hashlib.blake2b(digest_size=8)
    shape = _Shape(table, mapping, languages)
    columns: dict[str, list[NDArray[Any]]] = {"url_id": [], "pair_id": [], "fault": []}
    with atomic_file(file) as temporary, pq.ParquetWriter(temporary, _SCHEMA, compression="zstd") as writer:
        for lines in _chunks(table.rows()):
            rows = [shape.row(cells) for cells in lines]
            for row in rows:
                digest.update(repr(row[:3]).encode())
            values = list(zip(*rows, strict=True))
            writer.write_table(pa.table(dict(zip(_SCHEMA.names, map(list, values[:5]), strict=True)), _SCHEMA))
            for name, dtype, value in zip(columns, (np.uint64, np.uint64, np.int8), values[3:], strict=True):
                columns[name].append(np.array(value, dtype))
    url_ids, pair_ids, faults = (np.concatenate(parts) for parts in columns.values())
    fine = np.flatnonzero(faults == 0)
    _, first = np.unique(pair_ids[fine], return_index=True)
    repeated = np.delete(fine, first)
    faults[repeated] = FAULTS.index(DUPLICATE)
    return Rows(file, url_ids, pair_ids, faults, digest.hexdigest(), table.speechless)


class _Shape:
    """Where in the cells of a row stands what."""

    def __init__(self, table: Table, mapping: Columns, languages: tuple[str, ...]) -> None:
        self._described = mapping.description is not None
        first = 3 if self._described else 2
        self._kept = dict(enumerate(mapping.keep, first))
        spoken = {name: place for place, name in enumerate(table.columns)}
        self._spoken = {code: spoken.get(f"{mapping.caption}_{code}") for code in languages[1:]}

    def row(self, cells: Cells | None) -> tuple[str, str, str, int, int, int]:
        """Return address, caption, metadata, hash of the address, hash of the pair, and fault."""
        if cells is None:
            return "", "", "{}", 0, 0, FAULTS.index(MALFORMED)
        url, caption = address(cells[0]), cells[1].strip()
        metadata: dict[str, Any] = {name: cells[place] for place, name in self._kept.items() if cells[place]}
        if self._described:
            metadata |= {"title": captions.clean(cells[1]), "description": captions.clean(cells[2])}
            caption = captions.join(metadata["title"], metadata["description"])
        further = {code: cells[place] for code, place in self._spoken.items() if place is not None and cells[place]}
        if further:
            metadata["captions"] = further
        fault = "" if caption else NO_CAPTION
        fault = fault if looks_like_url(url) else NOT_A_URL
        text = json.dumps(metadata, ensure_ascii=False)
        return url, caption, text, _hash(url), _hash(f"{url}\0{caption}"), FAULTS.index(fault)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _chunks(rows: Iterator[Cells | None]) -> Iterator[list[Cells | None]]:
    chunk: list[Cells | None] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == BATCH:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
