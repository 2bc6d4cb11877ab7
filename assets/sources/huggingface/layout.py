"""Which column holds what, checked by features before any row is read, and the cells as captions, labels and keys."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import ClassLabel, Features, LargeList, List, Value

from assets.errors import DataError, message
from assets.section import unknown
from assets.sources.huggingface.config import HuggingFaceSplit
from assets.sources.huggingface.pictures import PictureColumn, picture_column

_TEXT = ("string", "large_string")
_WHOLE = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a split.

    Attributes:
        image: Column of the pictures.
        pictures: Reads it.
        captions: Language -> column.
        label: Column of the labels.
        class_names: What a ClassLabel calls the classes.
        key: Column of the keys.
    """

    image: str
    pictures: PictureColumn
    captions: dict[str, str]
    label: str | None
    class_names: tuple[str, ...] | None
    key: str | None

    @property
    def wanted(self) -> list[str]:
        """All columns that are read, each once."""
        optional = [column for column in (self.label, self.key) if column]
        return list(dict.fromkeys([self.image, *self.captions.values(), *optional]))


def layout_of(name: str, split: HuggingFaceSplit, language: str, features: Features, folder: Path) -> Layout:
    """Look up the columns of a split.

    Args:
        name: Name of the split, for errors.
        split: Its settings.
        language: Code of the main caption's language.
        features: Of the data set.
        folder: Where relative paths of pictures start.

    Raises:
        DataError: A column does not exist, or its type is not one that can be used.
    """
    columns = split.columns
    find = _Finder(f"splits.{name}.columns", split.data, features)
    image = find("image", columns.image)
    pictures = picture_column(image, folder)
    if pictures is None:
        forms = "Image, binary, string, a struct of bytes and path, or arrays of uint8, height x width x channels"
        raise find.unfit("image", columns.image, forms)
    captions = {language: columns.caption} if columns.caption else {}
    captions |= columns.captions
    for code, column in captions.items():
        place = "caption" if code == language else f"captions.{code}"
        feature = find(place, column)
        if not _is_value(feature.feature if isinstance(feature, List | LargeList) else feature, _TEXT):
            raise find.unfit(place, column, "a string or a list of strings")
    class_names = None
    if columns.label:
        feature = find("label", columns.label)
        if not isinstance(feature, ClassLabel) and not _is_value(feature, _TEXT + _WHOLE):
            raise find.unfit("label", columns.label, "ClassLabel, a whole number or a string")
        class_names = tuple(feature.names) if isinstance(feature, ClassLabel) else None
    if columns.key and not _is_value(find("key", columns.key), _TEXT + _WHOLE):
        raise find.unfit("key", columns.key, "a string or a whole number")
    return Layout(columns.image, pictures, captions, columns.label, class_names, columns.key)


class _Finder:
    """Finds columns by the settings that name them."""

    def __init__(self, where: str, data: str, features: Features) -> None:
        self._where, self._data, self._features = where, data, features

    def __call__(self, setting: str, column: str) -> Any:
        if column not in self._features:
            raise DataError(f"{self._where}.{setting}: {self._data}: {unknown(column, list(self._features), 'column')}")
        return self._features[column]

    def unfit(self, setting: str, column: str, wanted: str) -> DataError:
        what = f"{self._where}.{setting}: column {column!r} of {self._data} has a type that cannot be used"
        return DataError(message(what, str(self._features[column]), wanted, "name another, or cast it and save again"))


def _is_value(feature: Any, kinds: tuple[str, ...]) -> bool:
    return isinstance(feature, Value) and feature.dtype in kinds


def captions_of(rows: pa.Table, layout: Layout, further: bool) -> list[dict[str, str] | None]:
    """Return the captions of each row by language, None where they are not UTF-8.

    Args:
        rows: With the columns of the captions.
        layout: Which these are.
        further: Whether a cell that lists several gives them all: ``en``, ``en_2``, ``en_3``.
    """
    found: list[dict[str, str] | None] = [{} for _ in range(rows.num_rows)]
    for language, column in layout.captions.items():
        for number, texts in enumerate(_texts(rows[column])):
            captions = found[number]
            if texts is None or captions is None:
                found[number] = None
                continue
            for place, text in enumerate(texts if further else texts[:1], 1):
                captions[language if place == 1 else f"{language}_{place}"] = text
    return found


def _texts(column: pa.ChunkedArray) -> Iterable[list[str] | None]:
    # by way of bytes, because a string column may hold what is no UTF-8
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return (_decoded([cell]) for cell in column.cast(pa.large_binary()).to_pylist())
    return (_decoded(cell or []) for cell in column.cast(pa.large_list(pa.large_binary())).to_pylist())


def _decoded(cells: list[bytes | None]) -> list[str] | None:
    try:
        texts = [cell.decode().strip() for cell in cells if cell]
    except UnicodeDecodeError:
        return None
    return [text for text in texts if text]


def cells_of(rows: pa.Table, column: str | None) -> list[Any]:
    """Return the cells of a column of keys or labels, None in each row if there is no such column."""
    if column is None:
        return [None] * rows.num_rows
    if pa.types.is_integer(rows[column].type):
        return rows[column].to_pylist()
    cells = rows[column].cast(pa.large_binary()).to_pylist()
    return [None if cell is None else cell.decode("utf-8", "backslashreplace") for cell in cells]
