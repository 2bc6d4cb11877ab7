"""First pass: read every shard once, check it against its checksum, decode every picture, remember its contrast.

One shard is one task, and its result (one number per sample) stays under ``work/`` with the shard's time stamp, so that
a killed run and a run with other limits read no shard twice. Nothing here depends on the limits.
"""

import hashlib
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from assets.errors import DataError, message
from assets.index import INDEX, content_hash, write_table
from assets.manifest import file_digest, read_manifest
from assets.picture import Picture, PictureError, TooLargeError
from assets.progress import Stage

UNDECODABLE, TOO_LARGE, NO_BYTES = np.float32(-1.0), np.float32(-2.0), np.float32(-3.0)
"""What stands in place of a contrast: a damaged picture; one refused for its number of pixels; an empty or no file."""
_SCALED_SIDE = 64
_PIXELS_AT_ONCE = 1 << 20
_STAMP = b"mtime_ns"
_AGAIN = 'rerun "python -m assets ingest" (or "dvc repro"), or "dvc checkout" when the data came from a remote'


@dataclass(frozen=True, slots=True)
class ScanTask:
    """One shard to read.

    Attributes:
        raw: The raw data folder.
        shard: The file relative to it.
        sha256: What the manifest says.
        marker: Where the result goes.
    """

    raw: Path
    shard: str
    sha256: str
    marker: Path

    @property
    def stamp(self) -> bytes:
        """Modification time of the shard, which ties a result to the file it was read from."""
        return str((self.raw / self.shard).stat().st_mtime_ns).encode()


def check_files(raw: Path) -> dict[str, Any]:
    """Compare a raw data folder with its manifest: presence and size of every file, checksums of all but the shards.

    Args:
        raw: A folder like ``data/raw/emoji``.

    Returns:
        The manifest.

    Raises:
        DataError: Naming the files at fault.
    """
    manifest = read_manifest(raw, "raw")
    faults: list[str] = []
    for name, facts in manifest["files"].items():
        path = raw / name
        if not path.is_file():
            faults.append(f"{name} is missing")
        elif (size := path.stat().st_size) != facts["bytes"]:
            faults.append(f"{name} has {size} bytes, manifest says {facts['bytes']}")
        elif path.suffix != ".tar" and file_digest(path) != facts["sha256"]:
            faults.append(f"{name} has another checksum than the manifest")
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise DataError(message(f"{raw} is damaged: {'; '.join(faults[:5])}{more}", fix=_AGAIN))
    return manifest


def contrast(image: bytes) -> np.float32:
    """Return the largest standard deviation (0 to 128) among a picture's colour channels.

    Colours, not brightness: a red drawing on a brown ground may have one brightness throughout.

    Args:
        image: An encoded picture; a JPEG is decoded at a reduced scale, which is enough to tell a blank one.

    Returns:
        The deviation, or one of ``UNDECODABLE``, ``TOO_LARGE`` and ``NO_BYTES``.
    """
    if not image:
        return NO_BYTES
    try:
        picture = Picture(image)
        pixels = picture.pixels(shrink=min(picture.width, picture.height) // _SCALED_SIDE).reshape(-1, 3)
    except TooLargeError:
        return TOO_LARGE
    except PictureError:
        return UNDECODABLE
    sums, squares = np.zeros(3), np.zeros(3)
    for start in range(0, len(pixels), _PIXELS_AT_ONCE):  # as floats, a large picture would fill the memory
        # channel by channel in memory: four times as fast as along the last axis
        channels = np.ascontiguousarray(pixels[start : start + _PIXELS_AT_ONCE].T).astype(np.float64)
        sums += channels.sum(axis=1)
        squares += np.square(channels).sum(axis=1)
    variance = squares / len(pixels) - (sums / len(pixels)) ** 2
    return np.float32(round(float(np.sqrt(max(variance.max(), 0.0))), 2))


def scan_shard(task: ScanTask) -> int:
    """Check and decode one shard and write its marker: one ``contrast`` per sample, in index order.

    Args:
        task: The shard.

    Returns:
        Number of samples.

    Raises:
        DataError: The shard is not what the manifest or the index says.
    """
    path = task.raw / task.shard
    stamp = task.stamp
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != task.sha256:
        raise DataError(message(f"shard {path} is damaged: another checksum than the manifest", fix=_AGAIN))
    rows = pq.read_table(
        task.raw / INDEX,
        columns=["key", "image_offset", "image_size", "image_hash"],
        filters=[("shard", "==", task.shard)],
    ).to_pydict()
    values = np.empty(len(rows["key"]), dtype=np.float32)
    view = memoryview(content)
    places = zip(rows["key"], rows["image_offset"], rows["image_size"], rows["image_hash"], strict=True)
    for place, (key, offset, size, wanted) in enumerate(places):
        image = bytes(view[offset : offset + size])
        if content_hash(image) != wanted:
            raise DataError(message(f"sample {key} in shard {path}: index.parquet points at other bytes", fix=_AGAIN))
        values[place] = contrast(image)
    table = pa.table({"contrast": values}).replace_schema_metadata({_STAMP: stamp})
    write_table(table, task.marker)
    return len(values)


def _finished(task: ScanTask) -> bool:
    if not task.marker.is_file():
        return False
    metadata: dict[bytes, bytes] = pq.read_schema(task.marker).metadata or {}
    return metadata.get(_STAMP) == task.stamp


def scan(stage: Stage, raw: Path, shards: dict[str, int], work: Path, workers: int) -> np.ndarray:
    """Read all shards.

    Args:
        stage: For log and progress.
        raw: The raw data folder.
        shards: Shard -> number of samples, in index order.
        work: Folder of the markers.
        workers: Processes beside this one; 0 works here.

    Returns:
        What :func:`contrast` says of every row of the index, float32 [rows].
    """
    files = read_manifest(raw, "raw")["files"]
    tasks = [
        ScanTask(raw, shard, files[shard]["sha256"], work / "scan" / Path(shard).with_suffix(".parquet"))
        for shard in shards
    ]
    todo = [task for task in tasks if not _finished(task)]
    total, left = sum(shards.values()), sum(shards[task.shard] for task in todo)
    if len(todo) < len(tasks):
        stage.log.info("%d of %d shards were read before", len(tasks) - len(todo), len(tasks))
    with stage.progress("decode", total, "sample", initial=total - left) as progress:
        for samples, shard in _results(todo, min(workers, len(todo))):
            progress.advance(samples, shard=shard)
    return np.concatenate([pq.read_table(task.marker)["contrast"].to_numpy() for task in tasks])


def _results(todo: list[ScanTask], workers: int) -> Iterator[tuple[int, str]]:
    """Yield (samples, shard) of each shard as it is finished."""
    if workers < 2:
        for task in todo:
            yield scan_shard(task), task.shard
        return
    # spawn, because a fork of a process that has started threads (pyarrow, BLAS) may hang
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    try:
        futures = {pool.submit(scan_shard, task): task for task in todo}
        for future in as_completed(futures):
            yield future.result(), futures[future].shard
    except BrokenProcessPool as error:
        fix = "run the same command again to go on, with a smaller machine.workers"
        raise DataError(message("a worker process was killed, perhaps for want of memory", fix=fix)) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
