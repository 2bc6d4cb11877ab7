"""Measure the huggingface source: rows listed and samples handed out, without decoding, of a saved data set.

Run ``python benchmarks/huggingface.py`` in the repository root; it writes benchmarks/results/huggingface.json and needs
2 GB of disk for a while. The pictures are random bytes of 15 to 20 kB, about what a JPEG of 256 pixels takes.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import datasets
import numpy as np
from record import record

from assets.section import parse
from assets.sources.base import open_source
from assets.sources.huggingface.config import HuggingFaceConfig

ROWS, SMALLEST, SPREAD, REPEATS = 40_000, 15_000, 5_000, 3
COLUMNS = {
    "caption": {"caption": "caption"},
    "caption_and_key": {"caption": "caption", "key": "id"},
    "list_of_captions_and_key": {"caption": "captions", "key": "id"},
}


def rows() -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(0)
    for row in range(ROWS):
        image = b"\xff\xd8\xff" + rng.bytes(SMALLEST + int(rng.integers(SPREAD)))
        caption = f"a picture of thing number {row} on a table in the garden"
        captions = [caption, f"thing {row} outside"]
        yield {"image": {"bytes": image, "path": None}, "caption": caption, "captions": captions, "id": f"img{row}"}


def anonymous_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def measure(folder: str, columns: dict[str, str]) -> dict[str, float]:
    """Return rows per second of processor time, and the memory that is not a mapped file."""
    train = {"data": folder, "role": "train", "columns": columns}
    settings = {"kind": "huggingface", "licence": "CC0", "splits": {"train": train}}
    source = open_source(parse(HuggingFaceConfig, settings, "source"))
    begun = time.process_time()
    source.splits()
    listed = time.process_time() - begun
    handed: list[float] = []
    for _ in range(REPEATS):
        begun = time.process_time()
        assert sum(len(sample.image) > 0 for sample in source.samples("train", 0, ROWS)) == ROWS
        handed.append(time.process_time() - begun)
    return {
        "listed_per_cpu_s": round(ROWS / listed),
        "handed_out_per_cpu_s": round(ROWS / sorted(handed)[REPEATS // 2]),
        "anonymous_memory_mib": round(anonymous_mib()),
    }


def main() -> None:
    """Make the data set, measure, and write the result."""
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "caption": datasets.Value("string"),
            "captions": datasets.List(datasets.Value("string")),
            "id": datasets.Value("string"),
        }
    )
    with tempfile.TemporaryDirectory() as place:
        made = datasets.Dataset.from_generator(rows, features=features, cache_dir=f"{place}/cache")
        assert isinstance(made, datasets.Dataset)
        made.save_to_disk(f"{place}/set")
        result = {name: measure(f"{place}/set", columns) for name, columns in COLUMNS.items()}
    record("huggingface", {"rows": ROWS, **result})


if __name__ == "__main__":
    main()
