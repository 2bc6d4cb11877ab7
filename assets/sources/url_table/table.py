"""Tables of addresses: CSV, TSV or parquet, read row by row, with their own faults told before work starts."""

import csv
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from assets.errors import DataError, message
from assets.sources.url_table.config import Columns

_FIX = "correct splits.*.table or columns"
_BATCH = 1 << 14
_LOOKED_AT = 1000

Cells = list[str]
"""The cells of a row, in the order of ``Table.columns``; empty where the table has nothing."""


def looks_like_url(text: str) -> bool:
    """Say whether a cell is an address that can be fetched: http or https, with a host.

    Args:
        text: The cell.
    """
    try:
        parts = urlsplit(text.strip())
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


class Table:
    """A table whose header and first rows have been checked.

    Args:
        file: The file, its kind told by its suffix.
        mapping: Which column is what.
        languages: Codes of the captions' languages, that of the caption column first.

    Attributes:
        columns: Names of the columns that are read: address, caption, description if there is one, those kept, then
            the captions in further languages that the table has.
        speechless: Languages it has no column of.

    Raises:
        DataError: The file is missing, empty or unreadable, lacks a column, or holds no addresses.
    """

    def __init__(self, file: Path, mapping: Columns, languages: Sequence[str]) -> None:
        if not file.is_file():
            raise DataError(message(f"the table {file} does not exist", fix="download it, or correct splits.*.table"))
        self._file, self._mapping = file, mapping
        self._header = list(mapping.names or self._read_header())
        required = [
            mapping.url,
            mapping.caption,
            *([mapping.description] if mapping.description else []),
            *mapping.keep,
        ]
        further = {f"{mapping.caption}_{code}": code for code in languages[1:]}
        self.speechless = tuple(code for name, code in further.items() if name not in self._header)
        self.columns = [*required, *(name for name in further if name in self._header)]
        self._check_header(required)
        self._check_addresses()

    def rows(self) -> Iterator[Cells | None]:
        """Yield the rows in order; None for one that has not as many cells as the header.

        Raises:
            DataError: The file is not UTF-8, or a quote in it is never closed.
        """
        try:
            yield from self._parquet_rows() if self._is_parquet else self._text_rows()
        except UnicodeDecodeError:
            raise DataError(
                message(f"{self._file} {self._undecodable()} is not UTF-8", fix="convert the table to UTF-8")
            ) from None
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(error) from error

    @property
    def _is_parquet(self) -> bool:
        return self._file.suffix.lower() == ".parquet"

    def _read_header(self) -> list[str]:
        if not self._is_parquet:
            try:
                header = next(self._lines(), None)
            except UnicodeDecodeError:
                where = self._undecodable()
                raise DataError(message(f"{self._file} {where} is not UTF-8", fix="convert it to UTF-8")) from None
            if header is None:
                raise DataError(message(f"the table {self._file} is empty", fix="download it again"))
            return [name.strip() for name in header]
        try:
            return list(pq.read_schema(self._file).names)
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(error) from error

    def _check_header(self, required: list[str]) -> None:
        if missing := [name for name in required if name not in self._header]:
            what = f"the columns of {self._file} lack {', '.join(map(repr, missing))}"
            headless = any(looks_like_url(name) for name in self._header)
            fix = "it seems to have no header line: name its columns in splits.*.columns.names, or choose a preset"
            raise DataError(message(what, self._header, fix=fix if headless else _FIX))
        if double := [name for name in self.columns if self._header.count(name) > 1]:
            what = f"{self._file} has {self._header.count(double[0])} columns called {double[0]!r}"
            raise DataError(message(what, fix="rename all but one, so that it is clear which is meant"))

    def _check_addresses(self) -> None:
        first = [row for row in islice(self.rows(), _LOOKED_AT) if row is not None]
        if not first:
            raise DataError(
                message(f"the table {self._file} has no rows of {len(self._header)} columns", fix="look at the table")
            )
        cells = [row[0] for row in first]
        if not any(map(looks_like_url, cells)):
            raise DataError(
                message(
                    f"column {self._mapping.url!r} of {self._file} holds no address in its first {len(cells)} rows",
                    cells[0][:80],
                    "https://..",
                    _FIX,
                )
            )
        if not looks_like_url(cells[0]) and all(map(looks_like_url, cells[1:])) and len(cells) > 1:
            what = f"the first row of {self._file} seems to be a header"
            given = self._mapping.names is not None
            fix = (
                "leave out columns.names or the preset" if given else "the header stands twice: remove one of the lines"
            )
            raise DataError(message(what, cells[0][:80], "https://..", fix))

    def _text_rows(self) -> Iterator[Cells | None]:
        places = [self._header.index(name) for name in self.columns]
        width = len(self._header)
        for row in self._lines(skip=0 if self._mapping.names else 1):
            yield [row[place] for place in places] if len(row) == width else None

    def _lines(self, skip: int = 0) -> Iterator[list[str]]:
        separated = self._file.suffix.lower() == ".tsv"
        with self._file.open(encoding="utf-8-sig", newline="") as stream:
            # strict: otherwise a quote that is never closed swallows the rest of the file without a word; the
            # registered form of TSV knows no quotes, and captions begin with one often enough
            reader = csv.reader(
                stream,
                delimiter="\t" if separated else ",",
                quoting=csv.QUOTE_NONE if separated else csv.QUOTE_MINIMAL,
                strict=True,
            )
            try:
                yield from islice((row for row in reader if row), skip, None)
            except csv.Error as error:
                where = f"{self._file} line {reader.line_num}"
                raise DataError(message(f"{where} is not in order ({error})", fix="mend the line")) from error

    def _parquet_rows(self) -> Iterator[Cells | None]:
        with pq.ParquetFile(self._file) as opened:
            for batch in opened.iter_batches(_BATCH, columns=self.columns):
                columns: list[list[str]] = []
                for name in self.columns:
                    # string columns hold what they were given: bytes that are no UTF-8 show when they are decoded
                    column = batch.column(batch.schema.get_field_index(name))
                    if not _is_text(column.type):
                        column = column.cast(pa.large_string())
                    columns.append([(cell or b"").decode() for cell in column.cast(pa.large_binary()).to_pylist()])
                for row in zip(*columns, strict=True):
                    yield list(row)

    def _undecodable(self) -> str:
        """Say where the first bytes stand that are no UTF-8."""
        if not self._is_parquet:
            with self._file.open("rb") as stream:
                for number, line in enumerate(stream, 1):
                    try:
                        line.decode()
                    except UnicodeDecodeError:
                        return f"line {number}"
        return "in a text column"

    def _unreadable(self, error: Exception) -> DataError:
        why = " ".join(str(error).split())
        return DataError(message(f"the table {self._file} cannot be read ({why})", fix=_FIX))


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind)
