"""Captions files: CSV, TSV, JSON lines or parquet, read as columns of text.

Bytes that are no UTF-8 become lone surrogates, as in file names, so that one bad caption does not cost the whole file.
"""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from assets.errors import DataError, message

_FIX = "correct splits.*.captions_file"


@dataclass(frozen=True, slots=True)
class Columns:
    """The wanted columns of a captions file, all of one length.

    Attributes:
        values: Name of a column that is there -> its cells, None where empty.
        num_rows: Length of every column.
        unreadable: Number of rows left out because they do not have the file's form.
    """

    values: dict[str, list[str | None]]
    num_rows: int
    unreadable: int = 0


def read_columns(file: Path, required: Sequence[str], optional: Sequence[str]) -> Columns:
    """Read some columns of a captions file.

    Args:
        file: A file with one of the suffixes that the config accepts.
        required: Names of columns that must be there.
        optional: Names of columns that are read if they are there.

    Raises:
        DataError: The file cannot be read, lacks a required column, or has two of one name.
    """
    try:
        return _READERS[file.suffix.lower()](file, [*required, *optional], required)
    except (OSError, pa.ArrowException) as error:
        why = " ".join(str(error).split())
        raise DataError(message(f"the captions file {file} cannot be read ({why})", fix=_FIX)) from error


def _check_columns(file: Path, found: Sequence[str], wanted: Sequence[str], required: Sequence[str]) -> list[str]:
    """Return the wanted columns that are there."""
    if missing := [name for name in required if name not in found]:
        lacking = ", ".join(repr(name) for name in missing)
        raise DataError(message(f"the columns of {file} lack {lacking}", list(found), fix=f"{_FIX}, or the file"))
    if double := [name for name in wanted if found.count(name) > 1]:
        what = f"{file} has {found.count(double[0])} columns called {double[0]!r}"
        raise DataError(message(what, fix="rename all but one, so that it is clear which is meant"))
    return [name for name in wanted if name in found]


def _separated(delimiter: str, quoting: int) -> Callable[[Path, Sequence[str], Sequence[str]], Columns]:
    def read(file: Path, wanted: Sequence[str], required: Sequence[str]) -> Columns:
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            # strict: otherwise a quote that is never closed swallows the rest of the file without a word
            reader = csv.reader(stream, delimiter=delimiter, quoting=quoting, strict=True)  # pyright: ignore[reportArgumentType]
            try:
                header = [name.strip() for name in next(reader, [])]
                names = _check_columns(file, header, wanted, required)
                places = [header.index(name) for name in names]
                # a blank line is no row
                lines = [[row[place] for place in places] if len(row) == len(header) else None for row in reader if row]
            except csv.Error as error:
                raise DataError(
                    message(f"{file} line {reader.line_num} is not in order ({error})", fix="mend the line")
                ) from error
        rows = [line for line in lines if line is not None]
        values: dict[str, list[str | None]] = {name: [row[i] or None for row in rows] for i, name in enumerate(names)}
        return Columns(values, len(rows), len(lines) - len(rows))

    return read


def _json_lines(file: Path, wanted: Sequence[str], required: Sequence[str]) -> Columns:
    rows: list[list[str | None]] = []
    seen: dict[str, None] = {}
    unreadable = 0
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as stream:
        for line in stream:
            if not line.strip():
                continue
            try:
                entry: dict[str, Any] = dict(json.loads(line))
                row = [_cell(entry.get(name)) for name in wanted]
            except (ValueError, TypeError):
                unreadable += 1
                continue
            seen |= dict.fromkeys(entry)
            rows.append(row)
    names = _check_columns(file, list(seen), wanted, required)
    values = {name: [row[i] for row in rows] for i, name in enumerate(wanted) if name in names}
    return Columns(values, len(rows), unreadable)


def _cell(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(type(value).__name__)
    return str(value)


def _parquet(file: Path, wanted: Sequence[str], required: Sequence[str]) -> Columns:
    with pq.ParquetFile(file) as opened:
        names = _check_columns(file, opened.schema_arrow.names, wanted, required)
        table: pa.Table = opened.read(columns=names)
    values: dict[str, list[str | None]] = {}
    for name in names:
        column = table[name]
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_integer(column.type):
            column = column.cast(pa.string())
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise DataError(message(f"column {name!r} of {file} is no text", str(column.type), "strings", _FIX))
        # by way of bytes, because a string column may hold what is no UTF-8
        cells = column.cast(pa.large_binary()).to_pylist()
        values[name] = [cell.decode("utf-8", "surrogateescape") if cell else None for cell in cells]
    return Columns(values, table.num_rows)


_READERS: dict[str, Callable[[Path, Sequence[str], Sequence[str]], Columns]] = {
    ".csv": _separated(",", csv.QUOTE_MINIMAL),
    # the registered form of TSV knows no quotes, and captions begin with one often enough
    ".tsv": _separated("\t", csv.QUOTE_NONE),
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
}
