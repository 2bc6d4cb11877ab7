"""Measure validation of a long index without pictures: all rules, the Great Expectations suite and the report's tables.

Run ``python benchmarks/validate.py`` in the repository root; it writes benchmarks/results/validate.json. The rows are
synthetic: random hashes and pictures with planted duplicates, captions of random words, some file names.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pyarrow as pa
from record import record

from assets.index import INDEX, SCHEMA, SIGNATURE_SIDE, TABLE_COLUMNS, write_table
from assets.validation.config import ValidationConfig
from assets.validation.decisions import batches, decide, split_table
from assets.validation.expectations import sample_checks, split_checks
from assets.validation.suite import run_suites

ROWS = 1_000_000
CONFIG = ValidationConfig.model_validate(
    {
        "image": {"min_side": 32, "max_side": 4096, "max_aspect_ratio": 3, "min_contrast": 2},
        "caption": {"min_words": 1, "max_words": 64, "file_names": False, "generic": ["image"], "max_repeats": 1000},
        "duplicates": {"exact": True, "near": True, "evaluation": True, "max_distance": 0.06},
        "limits": {"max_rejected_train": 0.5, "warn_rejected_train": 0.3, "max_rejected_evaluation": 0.1},
    }
)


def hex_column(numbers: np.ndarray) -> list[str]:
    return [f"{number:016x}" for number in numbers.tolist()]


def random_signatures(rows: int, near: int) -> np.ndarray:
    """Smooth random pictures of which ``near`` are slightly lighter copies of earlier ones, uint8 [rows, 972]."""
    rng = np.random.default_rng(1)
    grid = np.linspace(0, 1, SIGNATURE_SIDE)
    waves = np.cos(np.pi * np.arange(6)[:, None] * grid).astype(np.float32)
    made = np.empty((rows, SIGNATURE_SIDE, SIGNATURE_SIDE, 3), dtype=np.uint8)
    for start in range(0, rows, 1 << 14):
        part = made[start : start + (1 << 14)]
        heights = rng.normal(0, 24, (len(part), 6, 6, 3)).astype(np.float32)
        heights[:, 0, 0] = rng.uniform(64, 192, (len(part), 3))
        part[...] = np.clip(np.einsum("nuvc,uy,vx->nyxc", heights, waves, waves, optimize=True), 0, 230)
    copies = rng.choice(np.arange(rows // 2, rows), near, replace=False)
    made[copies] = np.rint(made[copies - rows // 2] * 1.05)
    return made.reshape(rows, -1)


def synthetic_index(rows: int) -> pa.Table:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 2**63, rows, dtype=np.uint64)
    twins = rng.integers(0, rows, rows // 50)
    image[twins] = image[twins - 1]
    words = np.array(["red", "blue", "small", "dog", "cat", "on", "a", "table", "house", "two", "near", "the"])
    captions = [" ".join(line) for line in words[rng.integers(0, len(words), (rows, 9))]]
    for row in range(0, rows, 40):
        captions[row] = f"IMG_{row:05d}.jpg"
    number = np.arange(rows)
    place = number * 8192
    columns = {
        "key": [f"train-{row:08d}" for row in range(rows)],
        "split": ["train" if row < rows * 0.98 else "test" for row in range(rows)],
        "shard": [f"train/{row // 10_000:05d}.tar" for row in range(rows)],
        "offset": place,
        "size": np.full(rows, 8192),
        "image_offset": place + 512,
        "image_size": np.full(rows, 4000),
        "metadata_offset": place + 6000,
        "metadata_size": np.full(rows, 900),
        "extension": ["jpg"] * rows,
        "caption": captions,
        "width": np.full(rows, 224),
        "height": rng.integers(200, 300, rows),
        "caption_words": [len(caption.split()) for caption in captions],
        "caption_chars": [len(caption) for caption in captions],
        "image_hash": hex_column(image),
        "caption_hash": hex_column(rng.integers(0, 2**63, rows, dtype=np.uint64)),
        "signature": [signature.tobytes() for signature in random_signatures(rows, rows // 50)],
    }
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in SCHEMA}, schema=SCHEMA)


def clock(begun: tuple[float, float]) -> dict[str, float]:
    return {"wall_s": round(time.time() - begun[0], 1), "cpu_s": round(time.process_time() - begun[1], 1)}


def measure(raw: Path) -> dict[str, object]:
    begun = (time.time(), time.process_time())
    train = np.arange(ROWS) < ROWS * 0.98
    decisions = decide(raw, np.full(ROWS, 40, dtype=np.float32), CONFIG, train)
    declared = {
        "train": {"role": "train", "samples": int(train.sum())},
        "test": {"role": "retrieval", "samples": ROWS - int(train.sum())},
    }
    splits = split_table(raw, declared, decisions, CONFIG)
    rules = clock(begun)
    begun = (time.time(), time.process_time())
    site = raw / "site"
    site.mkdir()
    parts = (batch.to_pandas() for batch in batches(raw, TABLE_COLUMNS))
    checks = run_suites(parts, sample_checks(list(declared)), splits, split_checks(), site)
    return {
        "rows": ROWS,
        "rules": rules,
        "great_expectations_with_import": clock(begun),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "rejected_by_reason": {reason: count for reason, count in decisions.counts().items() if count},
        "failed_checks": [check["name"] for check in checks if not check["passed"]],
    }


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(Path(sys.argv[1]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_table(synthetic_index(ROWS), Path(folder) / INDEX)
        # a process of its own, so that making the rows does not count as memory
        command = [sys.executable, __file__, folder]
        result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    record("validate", {"index_only": result})


if __name__ == "__main__":
    main()
