"""Sidecars: arrays with one row per sample, kept beside the pair shards and joined to them by key.

Frozen text features, teacher embeddings and scores all take this form. Layout of a finished folder::

    train/00000.npy ...   rows of that shard, [n, *row_shape], plain .npy that NumPy can map into memory
    keys.parquet          one line per row: key, shard ("train/00000"), row in that shard's file
    manifest.json         kind "sidecar"; its config holds dtype and row_shape

While a folder is being written, the keys of each finished shard wait in a sibling folder (``<name>.keys``), so that a
killed stage resumes shard by shard, several processes can fill one folder, and the manifest never lists them.
"""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported, out of a type checker's sight

import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import DTypeLike, NDArray

from assets.errors import DataError, message
from assets.index import write_table
from assets.manifest import MANIFEST, read_manifest, write_manifest
from assets.row_files import RowFiles, data_offset, write_array

KIND = "sidecar"
KEYS = "keys.parquet"
SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
    ]
)
_SHARD_NAME = re.compile(r"[\w-][\w.-]*/[\w-]+")
_SHOWN = 3


def _array_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return the dtype as it stands on disk, little-endian, or refuse it."""
    wanted = np.dtype(dtype).newbyteorder("<")
    if wanted.kind not in "iu" and wanted.str not in ("<f2", "<f4"):
        raise DataError(message("a sidecar cannot hold this type", str(wanted), "float16, float32 or an integer"))
    return wanted


def _array_path(folder: Path, shard: str) -> Path:
    return folder / f"{shard}.npy"


def _shown(keys: pa.StringArray) -> str:
    return ", ".join(keys.slice(0, _SHOWN).to_pylist()) + (", ..." if len(keys) > _SHOWN else "")


def _check_unique(keys: pa.StringArray, place: object) -> None:
    if pc.count_distinct(keys).as_py() != len(keys):
        counts = pc.value_counts(keys)
        twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
        raise DataError(
            message(
                f"{place} lists {len(twice)} keys more than once ({_shown(twice)})",
                fix="give every sample one key of its own and make the folder again",
            )
        )


class SidecarWriter:
    """Fills a sidecar folder shard by shard; what is on disk is the only state, so any process can go on.

    Attributes:
        folder: The folder being filled; published by the caller once :meth:`finish` returned.
        dtype: Type of every array.
        row_shape: Shape of one sample's row.
    """

    def __init__(self, folder: Path, dtype: DTypeLike, row_shape: tuple[int, ...]) -> None:
        """Open a folder for writing; it need not exist.

        Args:
            folder: A new folder, or the one a killed stage left behind.
            dtype: float16, float32 or an integer type.
            row_shape: E.g. ``(8, 576)`` for R=8 features of D=576 per sample, ``()`` for one score.

        Raises:
            DataError: Another type.
        """
        self.folder, self.dtype, self.row_shape = folder, _array_dtype(dtype), tuple(row_shape)
        self._parts = folder.with_name(f"{folder.name}.keys")

    def write_shard(self, name: str, keys: pa.StringArray, array: NDArray[Any]) -> None:
        """Write the rows of one pair shard; a kill leaves it finished or to be done again.

        Args:
            name: The pair shard without its ending, e.g. ``"train/00000"``.
            keys: Its sample keys in row order, [n].
            array: One row per key, [n, *row_shape], of exactly ``dtype``.

        Raises:
            DataError: The name, the keys or the array do not fit, or the folder is already finished.
        """
        if (self.folder / MANIFEST).exists():
            raise DataError(message(f"{self.folder} is finished, so shard {name} cannot be added", fix="use a new one"))
        if not _SHARD_NAME.fullmatch(name):
            raise DataError(message("not the name of a pair shard", name, "SPLIT/NUMBER without an ending"))
        place = f"shard {name} of {self.folder}"
        self._check_rows(place, keys, array)
        part = self._part(name)
        part.unlink(missing_ok=True)  # the old keys must not vouch for the new rows
        write_array(_array_path(self.folder, name), np.ascontiguousarray(array))
        write_table(pa.table({"key": keys.cast(pa.string())}), part)

    def _check_rows(self, place: str, keys: pa.StringArray, array: NDArray[Any]) -> None:
        shape = (len(keys), *self.row_shape)
        if array.shape != shape or array.dtype != self.dtype:
            got = f"{array.dtype} {list(array.shape)}"
            raise DataError(message(f"{place}: wrong array", got, f"{self.dtype} {list(shape)}"))
        if keys.null_count:
            raise DataError(message(f"{place}: rows without a key", keys.null_count, 0))
        _check_unique(keys, place)
        if self.dtype.kind == "f":
            # a frozen language model's largest activations do not fit float16
            finite = np.isfinite(array).reshape(len(keys), -1).all(axis=1)
            if not finite.all():
                bad = keys.filter(pa.array(~finite))
                fix = "store another layer or normalise, or use float32"
                raise DataError(message(f"{place}: {len(bad)} rows are not finite ({_shown(bad)})", fix=fix))

    def _part(self, name: str) -> Path:
        return self._parts / f"{name}.parquet"

    def _finished(self, name: str) -> pa.StringArray | None:
        """Return the keys of a shard, or None when it is not whole and must be written again."""
        if not self._part(name).is_file():
            return None
        keys: pa.StringArray = pq.read_table(self._part(name)).column("key").combine_chunks()
        try:
            data_offset(_array_path(self.folder, name), self.dtype, (len(keys), *self.row_shape))
        except DataError:
            return None
        return keys

    def done_shards(self) -> list[str]:
        """Return the names of the shards that need no more work, sorted.

        A shard counts when its keys are on disk and its array has their number of rows, this writer's type and row
        shape, and the length in bytes that follows from them.
        """
        if (self.folder / MANIFEST).exists():
            files = read_manifest(self.folder, KIND)["files"]
            return sorted(name.removesuffix(".npy") for name in files if name.endswith(".npy"))
        names = [path.relative_to(self._parts).with_suffix("").as_posix() for path in self._parts.glob("*/*.parquet")]
        return sorted(name for name in names if self._finished(name) is not None)

    def finish(
        self, shards: Collection[str], name: str, config: Any, inputs: Mapping[str, str], code: str
    ) -> dict[str, Any]:
        """Write key list and manifest, once every process is done; calling it again changes nothing.

        Args:
            shards: The pair shards that must be there, no more and no less.
            name: Name of the data set or model it belongs to.
            config: The resolved config of the stage, JSON-serialisable.
            inputs: Name of each input folder and its version.
            code: Digest of the code that made it.

        Returns:
            The manifest as written.

        Raises:
            DataError: A shard is missing, damaged or not asked for, or two shards share a key.
        """
        if (self.folder / MANIFEST).exists():
            return read_manifest(self.folder, KIND)
        tables: list[pa.Table] = []
        for shard in sorted(shards):
            keys = self._finished(shard)
            if keys is None:
                raise DataError(message(f"shard {shard} of {self.folder} is not written", fix="run its stage again"))
            shard_column = pa.array([shard]).take(pa.array(np.zeros(len(keys), dtype=np.int8)))
            row = pa.array(np.arange(len(keys), dtype=np.int32))
            tables.append(pa.Table.from_arrays([keys, shard_column, row], schema=SCHEMA))
        table = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
        _check_unique(table.column("key"), self.folder)
        self._refuse_strangers(shards)
        write_table(table.combine_chunks(), self.folder / KEYS)
        facts = {"dtype": str(self.dtype), "row_shape": list(self.row_shape), "stage": config}
        counts = {"rows": len(table), "shards": len(tables)}
        manifest = write_manifest(self.folder, KIND, name, facts, counts, inputs, code)
        shutil.rmtree(self._parts, ignore_errors=True)  # of no more use, and outside the finished folder
        return manifest

    def _refuse_strangers(self, shards: Collection[str]) -> None:
        """Drop what killed writers left half-written; refuse arrays nobody asked for."""
        for left_over in self.folder.rglob(".*.partial"):
            left_over.unlink()
        found = {path.relative_to(self.folder).with_suffix("").as_posix() for path in self.folder.glob("*/*.npy")}
        if strangers := sorted(found - set(shards)):
            raise DataError(
                message(
                    f"{self.folder} holds shards that were not asked for", strangers[:_SHOWN], fix="start a new folder"
                )
            )


def _read_keys(folder: Path) -> pa.Table:
    try:
        table: pa.Table = pq.read_table(folder / KEYS, schema=SCHEMA)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(
            message(f"{folder / KEYS} is not readable as parquet ({error})", fix="make the folder again")
        ) from error
    return table


class Sidecar:
    """Reads a finished sidecar: find rows by key once with :meth:`join`, then fetch any of them with :meth:`rows`.

    Attributes:
        folder: Where it lies.
        dtype: Type of every row.
        row_shape: Shape of one row.
        keys: The key of each row, [n]; a position is a place in this list.
    """

    def __init__(self, folder: Path) -> None:
        """Read the key list and check that every array is there; no array is opened yet.

        Args:
            folder: A folder that :meth:`SidecarWriter.finish` completed.

        Raises:
            DataError: The folder is unfinished, of another kind, lists a key twice, or lacks an array.
        """
        manifest = read_manifest(folder, KIND)
        table = _read_keys(folder)
        self.folder = folder
        self.dtype = _array_dtype(manifest["config"]["dtype"])
        self.row_shape: tuple[int, ...] = tuple(manifest["config"]["row_shape"])
        self.keys: pa.StringArray = table.column("key").combine_chunks()
        _check_unique(self.keys, folder / KEYS)
        encoded = table.column("shard").combine_chunks().dictionary_encode()
        self._shards: list[str] = encoded.dictionary.to_pylist()
        self._shard: NDArray[np.int32] = encoded.indices.to_numpy(zero_copy_only=False)
        self._row: NDArray[np.int32] = table.column("row").to_numpy()
        lengths = np.bincount(self._shard, minlength=len(self._shards))
        self._check_places(lengths, manifest["files"])
        paths = [_array_path(folder, shard) for shard in self._shards]
        self._files = RowFiles(paths, lengths.tolist(), self.dtype, self.row_shape)

    def __len__(self) -> int:
        return len(self.keys)

    def _check_places(self, lengths: NDArray[np.int64], files: Mapping[str, Mapping[str, Any]]) -> None:
        """Check rows against lengths, and lengths on disk against the manifest: a partial copy shows here."""
        if np.any((self._row < 0) | (self._row >= lengths[self._shard])):
            raise DataError(message(f"{self.folder / KEYS} leaves rows out", fix="make the folder again"))
        for shard in self._shards:
            path = _array_path(self.folder, shard)
            wanted = files[f"{shard}.npy"]["bytes"] if f"{shard}.npy" in files else None
            found = path.stat().st_size if path.is_file() else None
            if found is None or found != wanted:
                raise DataError(message(f"{path} is missing or cut off", found, wanted, "copy or make it again"))

    def join(self, keys: pa.StringArray) -> NDArray[np.int64]:
        """Find the rows of some samples.

        Args:
            keys: Sample keys in any order, [m].

        Returns:
            Position of each key, [m].

        Raises:
            DataError: Some samples have no row.
        """
        found = pc.index_in(keys.cast(pa.string()), value_set=self.keys)
        if found.null_count:
            missing = keys.filter(pc.is_null(found))
            raise DataError(
                message(
                    f"{self.folder} has no row for {len(missing)} of {len(keys)} samples ({_shown(missing)})",
                    fix='it was made from other data: rerun the stage that makes it ("dvc repro")',
                )
            )
        return found.to_numpy(zero_copy_only=False).astype(np.int64)

    def rows(self, positions: NDArray[np.int64]) -> NDArray[Any]:
        """Fetch rows.

        Args:
            positions: From :meth:`join`, any order, repeats allowed, [B].

        Returns:
            The rows in that order, [B, *row_shape], a copy.

        Raises:
            IndexError: A position outside the sidecar.
            DataError: A file changed since the sidecar was opened.
        """
        if len(positions) and not 0 <= positions.min() <= positions.max() < len(self):
            raise IndexError(f"position outside 0..{len(self) - 1} of {self.folder}")
        return self._files.gather(self._shard[positions], self._row[positions])
