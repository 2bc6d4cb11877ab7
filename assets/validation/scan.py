"""First pass: read every shard once, check it against its checksum, decode every picture, remember how it looks.

One shard is one task, and its result (``assets.validation.measures``) stays under ``work/`` with the shard's time
stamp, so that a killed run and a run with other limits read no shard twice. Nothing here depends on the limits, but
that signatures are left out while no rule compares pictures.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from assets.errors import DataError, message
from assets.index import INDEX, content_hash
from assets.manifest import FileFacts, file_digest, read_manifest
from assets.members import locate_shard, open_shard
from assets.picture import Picture, PictureError, TooLargeError
from assets.progress import Stage
from assets.shard_cache import ShardCache
from assets.shard_download import is_url
from assets.validation.measures import Measures, is_marked, write_marker
from assets.validation.signature import SIGNATURE_BYTES, SMALLEST_DECODED, signature
from assets.worker_pool import run_tasks

UNDECODABLE, TOO_LARGE, NO_BYTES = np.float32(-1.0), np.float32(-2.0), np.float32(-3.0)
"""What stands in place of a contrast: a damaged picture; one refused for its number of pixels; an empty or no file."""
_PIXELS_AT_ONCE = 1 << 20
_AGAIN = 'rerun "python -m assets ingest" (or "dvc repro"), or "dvc checkout" when the data came from a remote'


@dataclass(frozen=True, slots=True)
class ScanTask:
    """One shard to read.

    Attributes:
        raw: The raw data folder.
        shard: The shard as the index names it.
        sha256: What the manifest says.
        marker: Where the result goes.
        signed: Whether pictures are compared, so that signatures are wanted.
        cache: Knows the object store, for shards that lie there.
    """

    raw: Path
    shard: str
    sha256: str
    marker: Path
    signed: bool
    cache: ShardCache | None = None

    @property
    def stamp(self) -> bytes:
        """Modification time of the shard, which ties a result to the file it was read from; stored objects stay."""
        return b"stored" if is_url(self.shard) else str((self.raw / self.shard).stat().st_mtime_ns).encode()

    def read(self) -> bytes:
        """Return the whole shard."""
        with open_shard(locate_shard(self.raw, self.shard), self.cache) as stream:
            return stream.read()


def check_files(raw: Path) -> dict[str, Any]:
    """Compare a raw data folder with its manifest: presence and size of every file, checksums of all but the shards.

    Shards elsewhere that its manifest lists are looked for as well, but for stored ones, which the scan will meet.

    Args:
        raw: A folder like ``data/raw/emoji``.

    Returns:
        The manifest.

    Raises:
        DataError: Naming the files at fault.
    """
    manifest = read_manifest(raw, "raw")
    faults: list[str] = []
    shards = shard_facts(manifest)
    for name, facts in (manifest["files"] | shards).items():
        path = raw / name
        if is_url(name):
            continue
        if not path.is_file():
            faults.append(f"{name} is missing")
        elif (size := path.stat().st_size) != facts["bytes"]:
            faults.append(f"{name} has {size} bytes, manifest says {facts['bytes']}")
        elif name not in shards and file_digest(path) != facts["sha256"]:
            faults.append(f"{name} has another checksum than the manifest")
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise DataError(message(f"{raw} is damaged: {'; '.join(faults[:5])}{more}", fix=_AGAIN))
    return manifest


def shard_facts(manifest: dict[str, Any]) -> dict[str, FileFacts]:
    """Return what a manifest says of the shards, whether they lie in the folder or elsewhere.

    Args:
        manifest: Of a raw data folder.
    """
    own = {name: facts for name, facts in manifest["files"].items() if name.endswith(".tar")}
    return own | manifest.get("external", {})


def contrast(pixels: NDArray[np.uint8]) -> np.float32:
    """Return the largest standard deviation (0 to 128) among a picture's colour channels.

    Colours, not brightness: a red drawing on a brown ground may have one brightness throughout.

    Args:
        pixels: Colours, uint8 [height, width, 3].
    """
    rows = pixels.reshape(-1, 3)
    sums, squares = np.zeros(3), np.zeros(3)
    for start in range(0, len(rows), _PIXELS_AT_ONCE):  # as floats, a large picture would fill the memory
        # channel by channel in memory: four times as fast as along the last axis
        channels = np.ascontiguousarray(rows[start : start + _PIXELS_AT_ONCE].T).astype(np.float64)
        sums += channels.sum(axis=1)
        squares += np.square(channels).sum(axis=1)
    variance = squares / len(rows) - (sums / len(rows)) ** 2
    return np.float32(round(float(np.sqrt(max(variance.max(), 0.0))), 2))


def measure(image: bytes, small: NDArray[np.uint8] | None) -> np.float32:
    """Decode a picture once, for its contrast and its signature.

    Args:
        image: The file; a JPEG is decoded at a reduced scale, which is enough for both.
        small: Where its signature goes, uint8 [972]; None if none is wanted.

    Returns:
        The contrast, or one of ``UNDECODABLE``, ``TOO_LARGE`` and ``NO_BYTES``, where ``small`` stays as it is.
    """
    if not image:
        return NO_BYTES
    try:
        picture = Picture(image)
        pixels = picture.pixels(shrink=min(picture.width, picture.height) // SMALLEST_DECODED)
    except TooLargeError:
        return TOO_LARGE
    except PictureError:
        return UNDECODABLE
    if small is not None:
        small[:] = signature(pixels)
    return contrast(pixels)


def scan_shard(task: ScanTask) -> int:
    """Check and decode one shard and write its marker: what :func:`measure` says of every sample, in index order.

    Args:
        task: The shard.

    Returns:
        Number of samples.

    Raises:
        DataError: The shard is not what the manifest or the index says.
    """
    path = locate_shard(task.raw, task.shard)
    stamp = task.stamp
    content = task.read()
    if hashlib.sha256(content).hexdigest() != task.sha256:
        raise DataError(message(f"shard {path} is damaged: another checksum than the manifest", fix=_AGAIN))
    rows = pq.read_table(
        task.raw / INDEX,
        columns=["key", "image_offset", "image_size", "image_hash"],
        filters=[("shard", "==", task.shard)],
    ).to_pydict()
    values = np.empty(len(rows["key"]), dtype=np.float32)
    signatures = np.zeros((len(values), SIGNATURE_BYTES), dtype=np.uint8) if task.signed else None
    view = memoryview(content)
    places = zip(rows["key"], rows["image_offset"], rows["image_size"], rows["image_hash"], strict=True)
    for place, (key, offset, size, wanted) in enumerate(places):
        image = bytes(view[offset : offset + size])
        if content_hash(image) != wanted:
            raise DataError(message(f"sample {key} in shard {path}: index.parquet points at other bytes", fix=_AGAIN))
        values[place] = measure(image, None if signatures is None else signatures[place])
    write_marker(task.marker, stamp, values, signatures)
    return len(values)


def scan(
    stage: Stage,
    raw: Path,
    shards: dict[str, int],
    work: Path,
    workers: int,
    signed: bool,
    cache: ShardCache | None = None,
) -> Measures:
    """Read all shards.

    Args:
        stage: For log and progress.
        raw: The raw data folder.
        shards: Shard -> number of samples, in index order.
        work: Folder of the markers.
        workers: Processes beside this one; 0 works here.
        signed: Whether pictures are compared, so that signatures are wanted.
        cache: Knows the object store, for shards that lie there.

    Returns:
        What was measured in every row of the index.
    """
    facts = shard_facts(read_manifest(raw, "raw"))
    tasks = [
        ScanTask(raw, shard, facts[shard]["sha256"], work / "scan" / f"{place:06d}.parquet", signed, cache)
        for place, shard in enumerate(shards)
    ]
    todo = [task for task in tasks if not is_marked(task.marker, task.stamp, signed)]
    total, left = sum(shards.values()), sum(shards[task.shard] for task in todo)
    if len(todo) < len(tasks):
        stage.log.info("%d of %d shards were read before", len(tasks) - len(todo), len(tasks))
    with stage.progress("decode", total, "sample", initial=total - left) as progress:
        for task, samples in run_tasks(_scan, None, todo, workers):
            progress.advance(samples, shard=task.shard)
    return Measures(tuple(task.marker for task in tasks), np.cumsum(list(shards.values()), dtype=np.int64))


def _scan(_: None, task: ScanTask) -> int:
    return scan_shard(task)
