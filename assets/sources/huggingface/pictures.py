"""The column of pictures in each of the forms that ``datasets`` knows: as files' contents, as paths, as arrays.

Contents go on as they are. Only arrays, which have no encoded form, are encoded: as PNG, which loses nothing.
"""

import io
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Array2D, Array3D, Image, LargeList, List, Value
from PIL import Image as PillowImage

from assets.errors import DataError, message

NONE = -1
"""The size of a picture that is not there."""
_CHANNELS = (1, 3, 4)
_BYTES, _PATHS = ("binary", "large_binary"), ("string", "large_string")


class PictureColumn(ABC):
    """Reads the pictures of a column.

    Args:
        folder: Where relative paths start.
    """

    encodes = False
    """Whether the pictures have no encoded form of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @abstractmethod
    def sizes(self, column: pa.ChunkedArray) -> np.ndarray:
        """Return a number of bytes per row, int64, ``NONE`` where there is no picture; contents are not read."""

    @abstractmethod
    def read(self, column: pa.ChunkedArray, row: int) -> bytes:
        """Return an encoded picture that is there."""

    def feed(self, digest: blake2b, column: pa.ChunkedArray, sizes: np.ndarray) -> None:
        """Add what tells these pictures from others to a digest.

        Args:
            digest: Is updated.
            column: The pictures.
            sizes: Their sizes.
        """
        del column
        digest.update(sizes.astype("<i8").tobytes())


class Contents(PictureColumn):
    """A column of encoded pictures."""

    def sizes(self, column: pa.ChunkedArray) -> np.ndarray:
        """Return the lengths of the cells; an empty one is no picture."""
        lengths = pc.fill_null(pc.call_function("binary_length", [column]), 0).to_numpy().astype(np.int64)
        return np.where(lengths > 0, lengths, NONE)

    def read(self, column: pa.ChunkedArray, row: int) -> bytes:
        """Return a cell."""
        return bytes(column[row].as_py())


class Paths(PictureColumn):
    """A column of paths."""

    def sizes(self, column: pa.ChunkedArray) -> np.ndarray:
        """Return the sizes of the files; what does not exist, is empty or no file is no picture."""
        return np.array([self._size(cell) for cell in column.cast(pa.large_binary()).to_pylist()], np.int64)

    def read(self, column: pa.ChunkedArray, row: int) -> bytes:
        """Return the content of a file."""
        path = self._folder / _path(column[row].as_buffer().to_pybytes())
        try:
            return path.read_bytes()
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise DataError(message(f"{path} cannot be read ({why})", fix="run ingest again")) from error

    def _size(self, cell: bytes | None) -> int:
        if not cell:
            return NONE
        path = _path(cell)
        if "://" in path:
            what = f"the column of pictures holds the address {path!r}"
            raise DataError(message(what, wanted="contents or paths", fix="download the pictures first"))
        try:
            facts = os.stat(os.path.join(self._folder, path))  # noqa: PTH116, PTH118 - a Path would double the cost
        except (OSError, ValueError):  # ValueError: there is a zero byte in it
            return NONE
        return facts.st_size or NONE if stat.S_ISREG(facts.st_mode) else NONE


def _path(cell: bytes) -> str:
    # a string column may hold what is no UTF-8, and so may the name of a file
    return cell.decode("utf-8", "surrogateescape")


class ContentsOrPaths(PictureColumn):
    """A column of structs with ``bytes`` and ``path``, of which the bytes count if they are there."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._contents, self._paths = Contents(folder), Paths(folder)

    def sizes(self, column: pa.ChunkedArray) -> np.ndarray:
        """Return the lengths of the contents, or else the sizes of the files."""
        sizes = self._contents.sizes(_field(column, "bytes"))
        if (empty := np.flatnonzero(sizes == NONE)).size:
            sizes[empty] = self._paths.sizes(_field(column.take(pa.array(empty)), "path"))
        return sizes

    def read(self, column: pa.ChunkedArray, row: int) -> bytes:
        """Return the content, or else that of the file."""
        cell = column.slice(row, 1)
        contents = _field(cell, "bytes")
        if contents[0].is_valid and (found := self._contents.read(contents, 0)):
            return found
        return self._paths.read(_field(cell, "path"), 0)


class Arrays(PictureColumn):
    """A column of arrays [height, width] or [height, width, channels], uint8."""

    encodes = True

    def sizes(self, column: pa.ChunkedArray) -> np.ndarray:
        """Return the heights; there are no bytes yet."""
        heights = [
            pc.fill_null(pc.call_function("list_value_length", [chunk]), 0).to_numpy(False)
            for chunk in _storage(column)
        ]
        every = np.concatenate(heights).astype(np.int64) if heights else np.empty(0, np.int64)
        return np.where(every > 0, every, NONE)

    def read(self, column: pa.ChunkedArray, row: int) -> bytes:
        """Return an array as PNG."""
        try:
            pixels = np.array(column[row].as_py(), np.uint8)
        except (ValueError, TypeError) as error:
            raise DataError(message(f"an array of pictures is ragged or has gaps ({error})", fix="mend it")) from error
        if pixels.ndim == 3 and pixels.shape[2] == 1:
            pixels = pixels[:, :, 0]
        if pixels.ndim not in (2, 3) or 0 in pixels.shape or (pixels.ndim == 3 and pixels.shape[2] not in _CHANNELS):
            wanted = "height x width, or height x width x 1, 3 or 4"
            raise DataError(message("an array is no picture", "x".join(map(str, pixels.shape)), wanted, "transpose it"))
        stream = io.BytesIO()
        PillowImage.fromarray(pixels).save(stream, "PNG")
        return stream.getvalue()

    def feed(self, digest: blake2b, column: pa.ChunkedArray, sizes: np.ndarray) -> None:
        """Add all numbers to a digest, as arrays of one size tell nothing apart."""
        super().feed(digest, column, sizes)
        for chunk in _storage(column):
            numbers = chunk
            while not pa.types.is_integer(numbers.type):
                numbers = numbers.flatten()
            digest.update(numbers.fill_null(0).to_numpy(False).tobytes())


def _field(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Return a field of a column of structs, null where the struct is."""
    fields: list[pa.ChunkedArray] = column.flatten()
    return fields[column.type.get_field_index(name)]


def _storage(column: pa.ChunkedArray) -> Iterator[Any]:
    for chunk in column.chunks:
        yield chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk


def picture_column(feature: Any, folder: Path) -> PictureColumn | None:
    """Return what reads a column, None if its feature is no picture.

    Args:
        feature: From the features of a data set.
        folder: Where relative paths start.
    """
    if isinstance(feature, Image):
        return ContentsOrPaths(folder)
    if isinstance(feature, dict) and set(feature) >= {"bytes", "path"}:
        fits = _is_value(feature["bytes"], _BYTES) and _is_value(feature["path"], _PATHS)
        return ContentsOrPaths(folder) if fits else None
    if _is_value(feature, _BYTES):
        return Contents(folder)
    if _is_value(feature, _PATHS):
        return Paths(folder)
    if isinstance(feature, Array2D | Array3D):
        channels = feature.shape[2] if isinstance(feature, Array3D) else 1
        return Arrays(folder) if feature.dtype == "uint8" and channels in _CHANNELS else None
    return Arrays(folder) if _depth(feature) in (2, 3) else None


def _is_value(feature: Any, kinds: tuple[str, ...]) -> bool:
    return isinstance(feature, Value) and feature.dtype in kinds


def _depth(feature: Any) -> int:
    """Return how many lists stand around a uint8, 0 if that is not what it is."""
    depth = 0
    while isinstance(feature, List | LargeList):
        feature, depth = feature.feature, depth + 1
    return depth if _is_value(feature, ("uint8",)) else 0
