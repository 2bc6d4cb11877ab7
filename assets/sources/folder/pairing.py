"""Which caption belongs to which picture of a split, decided from names and tables alone: no picture is opened.

Paths join exactly, or else by their composed form: a name that went through a Mac has its accents decomposed.
"""

import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Generic, TypeVar

from assets.errors import DataError, message
from assets.sources.folder.captions_file import Columns, read_columns
from assets.sources.folder.config import CaptionsFile
from assets.sources.folder.files import Files

# pictures by their name; those that assets.picture does not know are for validation to reject by name
PICTURES = frozenset("jpg jpeg jpe jfif png webp gif bmp tif tiff svg heic heif avif jxl jp2 ico psd".split())
OTHER = "neither picture nor caption by their suffix"
SECOND_TEXT = "a second caption file of one name"
SECOND_ROW = "rows of the captions file for a picture that has one"
BAD_ROW = "rows of the captions file that cannot be read"
NO_PATH = "rows of the captions file without a path"
NOT_UTF8 = "the caption is not UTF-8"
LARGE_TEXT = "caption files of over 1 MiB"
LARGE_PICTURE = "pictures of over 1 GiB"
_LARGEST_TEXT, _LARGEST_PICTURE = 1 << 20, 1 << 30
_TEXT = "txt"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Entry:
    """A picture with its caption, or one that lacks the other.

    Attributes:
        path: The picture, or the lonely caption file, or what the lonely row calls it.
        size: Bytes of the picture; None if there is none.
        text: The caption file.
        captions: (language, caption) pairs from a captions file; a mapping would take three times the memory.
        label: The cell of the label column.
    """

    path: str
    size: int | None
    text: str | None = None
    captions: tuple[tuple[str, str], ...] = ()
    label: str | None = None


class _Names(Generic[_T]):
    """Finds what has a name, and knows what was never found.

    Args:
        named: Name -> what has it.
    """

    def __init__(self, named: Mapping[str, _T]) -> None:
        self._exact = named
        self._composed: dict[str, str] = {}
        for name in named:
            if not name.isascii():
                self._composed.setdefault(unicodedata.normalize("NFC", name), name)
        self._found: set[str] = set()

    def find(self, name: str) -> _T | None:
        exact = (
            name if name in self._exact or name.isascii() else self._composed.get(unicodedata.normalize("NFC", name))
        )
        if exact is None or exact not in self._exact:
            return None
        self._found.add(exact)
        return self._exact[exact]

    def lonely(self) -> list[_T]:
        return [value for name, value in self._exact.items() if name not in self._found]


def _stem_and_suffix(path: str) -> tuple[str, str]:
    stem, dot, suffix = path.rpartition(".")
    return (stem, suffix.lower()) if dot and "/" not in suffix else (path, "")


def pair_sidecars(files: Files, captioned: bool, left_out: Counter[str]) -> list[Entry]:
    """Join pictures with the caption files that have their name.

    Args:
        files: What is in the folder.
        captioned: Whether text files are captions.
        left_out: Reason -> number of files; added to.
    """
    texts: dict[str, str] = {}
    pictures: list[str] = []
    for path in sorted(files.sizes):
        (stem, suffix), size = _stem_and_suffix(path), files.sizes[path]
        if suffix in PICTURES and size > _LARGEST_PICTURE:
            left_out[LARGE_PICTURE] += 1
        elif suffix in PICTURES:
            pictures.append(path)
        elif suffix != _TEXT or not captioned:
            left_out[OTHER] += 1
        elif size > _LARGEST_TEXT:
            left_out[LARGE_TEXT] += 1
        elif stem in texts:
            left_out[SECOND_TEXT] += 1
        else:
            texts[stem] = path
    names = _Names(texts)
    entries = [Entry(path, files.sizes[path], names.find(_stem_and_suffix(path)[0])) for path in pictures]
    return entries + [Entry(path, None, path) for path in names.lonely()]


def pair_rows(files: Files, rows: Mapping[str, Entry], left_out: Counter[str]) -> list[Entry]:
    """Join pictures with the rows of a captions file. A file that a row names is a picture, whatever its suffix.

    Args:
        files: What is in the folder.
        rows: From :func:`read_rows`.
        left_out: Reason -> number of files; added to.
    """
    names = _Names(rows)
    entries: list[Entry] = []
    for path in sorted(files.sizes):
        size = files.sizes[path]
        if size > _LARGEST_PICTURE:
            left_out[LARGE_PICTURE] += 1
        elif (row := names.find(path)) is not None:
            entries.append(Entry(path, size, None, row.captions, row.label))
        elif _stem_and_suffix(path)[1] in PICTURES:
            entries.append(Entry(path, size))
        else:
            left_out[OTHER] += 1
    return entries + names.lonely()


def read_rows(
    config: CaptionsFile, languages: tuple[str, ...], required: list[str], left_out: Counter[str]
) -> tuple[dict[str, Entry], list[str]]:
    """Read a captions file.

    Args:
        config: Where it is and what its columns are called.
        languages: The caption column's language, then those of the columns with a language behind their name.
        required: Names of columns that must be there.
        left_out: Reason -> number of rows; added to.

    Returns:
        Path -> row, as an entry without picture; and the languages it has no column of.

    Raises:
        DataError: The file cannot be read, or its columns are not as they should be.
    """
    spoken = dict(
        zip([config.caption, *(f"{config.caption}_{code}" for code in languages[1:])], languages, strict=True)
    )
    optional = [name for name in spoken if name not in required]
    columns = read_columns(Path(config.file), required, optional)
    rows = _rows(config, columns, {name: code for name, code in spoken.items() if name in columns.values}, left_out)
    if not rows:
        raise DataError(message(f"{config.file} has no usable row", fix="look at the file"))
    return rows, [code for name, code in spoken.items() if name not in columns.values]


def _rows(config: CaptionsFile, columns: Columns, spoken: dict[str, str], left_out: Counter[str]) -> dict[str, Entry]:
    nothing: list[str | None] = [None] * columns.num_rows
    captions = [columns.values[name] for name in spoken]
    labels = columns.values.get(config.label, nothing)
    rows: dict[str, Entry] = {}
    faults = Counter({BAD_ROW: columns.unreadable})
    for number, cell in enumerate(columns.values[config.path]):
        path = _plain_path(cell or "")
        if not path:
            faults[NO_PATH] += 1
        elif path in rows:
            faults[SECOND_ROW] += 1
        else:
            texts = (
                (code, (texts[number] or "").strip()) for code, texts in zip(spoken.values(), captions, strict=True)
            )
            rows[path] = Entry(path, None, None, tuple(pair for pair in texts if pair[1]), labels[number])
    left_out.update({why: count for why, count in faults.items() if count})
    return rows


def _plain_path(path: str) -> str:
    path = path.strip()
    # a Path of every row would cost more than all the rest
    plain = PurePosixPath(path).as_posix() if "./" in path or "//" in path or path.endswith("/") else path
    return "" if plain == "." else plain


def is_utf8(text: str) -> bool:
    """Say whether a text can be written; one that was read from other bytes holds halves of surrogate pairs."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
