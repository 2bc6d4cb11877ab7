"""What img2dataset has finished: tars with reports, indexed once so that every picture and every failure can be found.

Each run of img2dataset fills a folder ``pass-00000``, .. with parts: ``00000.tar``, its report ``00000.parquet``, and
``00000_stats.json``, which it writes last. From these our ``00000.index.parquet`` is made. A part is finished if and
only if that is there; everything else in a pass is what a killed run has left.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from assets.atomic import atomic_file, write_text
from assets.errors import DataError
from assets.progress import setup_logging
from assets.shards import IMAGE_EXTENSIONS
from assets.sources.url_table.reasons import LOST, reason_of
from assets.sources.webdataset.archive import list_samples

FETCH, STOPPED = "fetch.parquet", "stopped"
_INDEX = ".index.parquet"
_SCHEMA = pa.schema(
    {"url_id": pa.uint64(), "reason": pa.string(), "error": pa.string(), "offset": pa.int64(), "size": pa.int64()}
    | {"original_width": pa.int32(), "original_height": pa.int32(), "sha256": pa.string()}
)


@dataclass(frozen=True, slots=True)
class Part:
    """One finished tar.

    Attributes:
        folder: Its pass.
        number: Its number in the pass.
    """

    folder: Path
    number: int

    @property
    def tar(self) -> Path:
        """The pictures."""
        return self.folder / f"{self.number:05d}.tar"

    @property
    def index(self) -> Path:
        """What became of every address of the part; there if and only if the part is finished."""
        return self.folder / f"{self.number:05d}{_INDEX}"

    @property
    def stopped(self) -> bool:
        """Whether the pass was given up because too much failed: its failures then do not count as tries."""
        return (self.folder / STOPPED).is_file()

    def read(self, columns: list[str]) -> pa.Table:
        """Return columns of the index."""
        return pq.read_table(self.index, columns=columns)


def finished_parts(root: Path) -> list[Part]:
    """Return the finished parts of all passes, in the order of their passes and numbers.

    Args:
        root: The folder of the passes.
    """
    found = sorted(root.glob(f"pass-*/*{_INDEX}"))
    return [Part(path.parent, int(path.name.removesuffix(_INDEX))) for path in found]


def start_pass(root: Path, fetch: pa.Table, part_rows: int) -> Path:
    """Make the folder of the next pass, with the table of what it is to fetch.

    Args:
        root: The folder of the passes.
        fetch: Columns ``url`` and ``url_id`` (16 hex digits).
        part_rows: Addresses per part.
    """
    numbers = [int(path.name.removeprefix("pass-")) for path in root.glob("pass-*")]
    folder = root / f"pass-{max(numbers, default=-1) + 1:05d}"
    folder.mkdir(parents=True)
    with atomic_file(folder / FETCH) as temporary:
        pq.write_table(fetch, temporary, row_group_size=part_rows, compression="zstd")
    return folder


def give_up(folder: Path) -> None:
    """Mark a pass as given up."""
    write_text(folder / STOPPED, "too much failed; what failed here is tried again\n")


def index_new_parts(folder: Path) -> list[tuple[Part, dict[str, int]]]:
    """Index the parts of a pass that img2dataset has finished since the last call.

    Args:
        folder: The pass.

    Returns:
        The new parts, each with its number of addresses by reason; ``""`` stands for those downloaded.
    """
    new: list[tuple[Part, dict[str, int]]] = []
    for stats in sorted(folder.glob("*_stats.json")):
        part = Part(folder, int(stats.name.partition("_")[0]))
        if part.index.is_file() or not _is_complete(stats):
            continue
        try:
            table = _index(part)
        except (DataError, OSError, pa.ArrowException) as error:
            setup_logging().warning("%s is damaged and will be downloaded again: %s", part.tar, error)
            stats.unlink()
            continue
        with atomic_file(part.index) as temporary:
            pq.write_table(table, temporary, compression="zstd")
        counts = table["reason"].fill_null("").value_counts().to_pylist()
        new.append((part, {entry["values"]: entry["counts"] for entry in counts}))
    return new


def clear_leftovers(root: Path) -> None:
    """Index what a killed run has finished, and remove what it has left half-written.

    Args:
        root: The folder of the passes; nothing may be at work there.
    """
    for folder in sorted(root.glob("pass-*")):
        if (folder / FETCH).is_file():
            index_new_parts(folder)
        finished = {part.number for part in finished_parts(root) if part.folder == folder}
        if not finished:
            shutil.rmtree(folder)
            continue
        shutil.rmtree(folder / "_tmp", ignore_errors=True)
        for path in folder.iterdir():
            number = path.name.removeprefix(".")[:5]
            if number.isdigit() and (int(number) not in finished or path.name.endswith(".partial")):
                path.unlink()


def _is_complete(stats: Path) -> bool:
    """Say whether the last file of a part is whole; it may be in the making, or cut off by a kill."""
    try:
        return isinstance(json.loads(stats.read_text()), dict)
    except ValueError:
        return False


def _index(part: Part) -> pa.Table:
    """Return what became of each address of a part, in the order it was given to img2dataset."""
    with part.tar.open("rb") as stream:
        # img2dataset does not flush: without this a power cut could empty a tar whose index is there
        os.fsync(stream.fileno())
    places = list_samples(str(part.tar))
    report = pq.read_table(part.tar.with_suffix(".parquet"))
    entries = {int(entry["url_id"], 16): entry for entry in report.to_pylist()}
    rows = [_row(url_id, entries.get(url_id), places) for url_id in _given(part).tolist()]
    return pa.Table.from_pylist(rows, _SCHEMA)


def _row(
    url_id: int, entry: dict[str, object] | None, places: dict[str, dict[str, tuple[int, int]]]
) -> dict[str, object]:
    if entry is None:
        return {"url_id": url_id, "reason": LOST}
    if entry["status"] != "success":
        error = str(entry["error_message"] or "")
        return {"url_id": url_id, "reason": reason_of(str(entry["status"]), error), "error": error}
    members = places.get(str(entry["key"]), {})
    place = next((members[suffix] for suffix in IMAGE_EXTENSIONS if suffix in members), None)
    if place is None:
        return {"url_id": url_id, "reason": LOST}
    facts = {name: entry[name] for name in ("original_width", "original_height", "sha256")}
    return {"url_id": url_id, "offset": place[0], "size": place[1], **facts}


def _given(part: Part) -> NDArray[np.uint64]:
    """Return the hashes of the addresses that a part was to fetch; a row group of the pass's table is one part."""
    with pq.ParquetFile(part.folder / FETCH) as fetch:
        column = fetch.read_row_group(part.number, columns=["url_id"])["url_id"].to_pylist()
    return np.array([int(text, 16) for text in column], np.uint64)
