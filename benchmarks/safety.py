"""Measure how fast the safety network scores pictures on one core, decoding included.

Run ``python benchmarks/safety.py`` in the repository root; it writes benchmarks/results/safety.json. The pictures are
random blocks, JPEG of 512 x 384 pixels: the time does not depend on what they show.
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

from assets.validation.safety import safety_pass, score_shard
from assets.validation.shard_pass import ShardSamples

PICTURES = 160


def write_pictures(path: Path) -> dict[str, list[int]]:
    """Write pictures one behind another and return where they lie."""
    rng = np.random.default_rng(0)
    rows: dict[str, list[int]] = {"image_offset": [], "image_size": []}
    with path.open("wb") as stream:
        for _ in range(PICTURES):
            blocks = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
            jpeg = io.BytesIO()
            blocks.resize((512, 384), Image.Resampling.BICUBIC).save(jpeg, "JPEG", quality=90)
            rows["image_offset"].append(stream.tell())
            rows["image_size"].append(len(jpeg.getvalue()))
            stream.write(jpeg.getvalue())
    return rows


def main() -> None:
    safety_pass()
    with tempfile.TemporaryDirectory() as folder:
        rows = write_pictures(Path(folder) / "shard")
        first = {name: places[:16] for name, places in rows.items()}
        score_shard(ShardSamples(Path(folder), "shard", first, None))  # loads the network
        wall, cpu = time.perf_counter(), time.process_time()
        score_shard(ShardSamples(Path(folder), "shard", rows, None))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    record(
        "safety",
        {
            "pictures": PICTURES,
            "wall_seconds": round(wall, 2),
            "cpu_seconds": round(cpu, 2),
            "pictures_per_cpu_second": round(PICTURES / cpu, 1),
        },
    )


if __name__ == "__main__":
    main()
