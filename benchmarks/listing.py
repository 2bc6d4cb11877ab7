"""Measure how fast pictures that exist already are listed, indexed and written as shards, in one process.

Run ``python benchmarks/listing.py`` in the repository root; it writes benchmarks/results/listing.json. The pictures are
JPEGs of 256 pixels, once as files beside their captions (``folder``), once in tars as img2dataset writes them
(``webdataset``), the latter copied and indexed in place; once plain, once with the Exif data of a camera. CPU time is
the figure to compare, because the wall clock also counts what else the machine does. The files are in the page cache.
"""

import io
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from PIL import Image
from record import record

from assets.index import index_row
from assets.placement import Placement
from assets.shard_tasks import Workspace, plan, write_shard
from assets.shards import ShardWriter
from assets.sources.base import Sample, Source, SourceConfig, open_source
from assets.sources.folder.config import FolderConfig
from assets.sources.webdataset.config import WebDatasetConfig

PICTURES, PER_SHARD, DISTINCT, SIDE = 10_000, 5_000, 100, 256
CAPTION = "a small dog and two cats on a table near the blue house"
PLACE = Placement(0, 1, 2, 3, 4, 5)


def pictures(exif: bool) -> list[bytes]:
    """Return JPEGs of soft noise, of 15 to 25 kB."""
    rng = np.random.default_rng(0)
    camera = Image.Exif()
    camera[0x010F], camera[0x0112], camera[0x0132] = "Camera", 1, "2020:01:01 00:00:00"
    options = {"exif": camera} if exif else {}
    made: list[bytes] = []
    for _ in range(DISTINCT):
        coarse = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
        stream = io.BytesIO()
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=88, **options)
        made.append(stream.getvalue())
    return made


def write_folder(root: Path, images: list[bytes]) -> SourceConfig:
    for number in range(PICTURES):
        place = root / "pictures" / f"{number // 1000:03d}"
        place.mkdir(parents=True, exist_ok=True)
        # a tail of its own makes every file another one
        (place / f"{number:06d}.jpg").write_bytes(images[number % DISTINCT] + number.to_bytes(4, "big"))
        (place / f"{number:06d}.txt").write_text(f"{CAPTION} {number}")
    split = {"path": str(root / "pictures"), "role": "train", "captions": "sidecar"}
    return FolderConfig.model_validate({"kind": "folder", "licence": "none", "splits": {"train": split}})


def write_tars(root: Path, images: list[bytes], in_place: bool) -> SourceConfig:
    (root / "tars").mkdir(exist_ok=True)
    for start in range(0, PICTURES, PER_SHARD):
        with (root / "tars" / f"{start // PER_SHARD:05d}.tar").open("wb") as stream:
            writer = ShardWriter(stream)
            for number in range(start, start + PER_SHARD):
                metadata = {
                    "url": f"https://example.org/{number}.jpg",
                    "width": SIDE,
                    "height": SIDE,
                    "status": "success",
                }
                image = images[number % DISTINCT] + number.to_bytes(4, "big")
                writer.write(Sample(f"{number:09d}", image, "jpg", f"{CAPTION} {number}", metadata))
            writer.close()
    split = {"shards": str(root / "tars" / "*.tar"), "role": "train"}
    settings = {"kind": "webdataset", "licence": "none", "in_place": in_place, "splits": {"train": split}}
    return WebDatasetConfig.model_validate(settings)


def ingest(source: Source, folder: Path) -> dict[str, float]:
    """List, write and index everything; return samples per second of the steps."""
    begun = (time.process_time(), time.perf_counter())
    splits = source.splits()
    listed = time.process_time()
    space = Workspace(folder / "output", folder / "markers")
    samples = sum(write_shard(source, task, space) for task in plan(splits, PER_SHARD))
    ended = time.process_time()
    assert samples == PICTURES
    return {
        "listed_per_cpu_second": round(samples / (listed - begun[0])),
        "written_per_cpu_second": round(samples / (ended - listed)),
        "all_per_cpu_second": round(samples / (ended - begun[0])),
        "all_per_wall_second": round(samples / (time.perf_counter() - begun[1])),
    }


def rows_per_second(images: list[bytes]) -> int:
    """Return rows of ``index_row`` alone per second of CPU time."""
    samples = [Sample(f"{n:09d}", image, "jpg", CAPTION, {}) for n, image in enumerate(images)]
    begun = time.process_time()
    for _ in range(PICTURES // len(samples)):
        for sample in samples:
            index_row(sample, "train", "train/00000.tar", PLACE)
    return round(PICTURES / (time.process_time() - begun))


def measure(exif: bool) -> dict[str, object]:
    images = pictures(exif)
    result: dict[str, object] = {
        "mean_bytes": round(sum(map(len, images)) / len(images)),
        "index_rows_per_cpu_second": rows_per_second(images),
    }
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        configs = {
            "folder": write_folder(root, images),
            "webdataset_copied": write_tars(root, images, in_place=False),
            "webdataset_in_place": write_tars(root, images, in_place=True),
        }
        for kind, config in configs.items():
            result[kind] = ingest(open_source(config), root / kind)
    return result


def main() -> None:
    record("listing", {"pictures": PICTURES, "plain": measure(exif=False), "with_exif": measure(exif=True)})


if __name__ == "__main__":
    main()
