"""Measure validation of a long index without pictures: all rules, the Great Expectations suite and the tables.

Run ``python benchmarks/validate.py [--rows N]`` in the repository root; it writes benchmarks/results/validate.json,
one entry per number of rows. The rows are synthetic: random hashes and signatures with planted duplicates, captions of
random words, some file names. Everything but decoding takes part. The disk must hold 1.2 kB per row for a while.
"""

import argparse
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
import pyarrow.parquet as pq
from record import RESULTS, record

from assets.index import INDEX, NO_CLASS, SCHEMA
from assets.index_parts import batches, read_splits
from assets.validation.config import ValidationConfig
from assets.validation.decisions import decide, shards_in_order, split_table
from assets.validation.expectations import sample_checks, split_checks
from assets.validation.measures import Measures, write_marker
from assets.validation.profile import make_profile
from assets.validation.signature import SIGNATURE_BYTES, SIGNATURE_SIDE
from assets.validation.split_facts import add_facts
from assets.validation.suite import Table, run_suites
from assets.validation.tables import write_tables

ROWS = 1_000_000
PER_SHARD, PER_EVALUATION = 10_000, 50  # every 50th shard is one of the evaluation
WORDS = np.array(["red", "blue", "small", "dog", "cat", "on", "a", "table", "house", "two", "near", "the"])
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


def signatures_of(rng: np.random.Generator, rows: int, earlier: np.ndarray) -> np.ndarray:
    """Smooth random pictures, the last of them slightly lighter copies of earlier ones, uint8 [rows, 972]."""
    waves = np.cos(np.pi * np.arange(6)[:, None] * np.linspace(0, 1, SIGNATURE_SIDE))
    planes = np.einsum("uy,vx->uvyx", waves, waves).reshape(36, -1).astype(np.float32)
    heights = 24 * rng.standard_normal((rows * 3, 36), dtype=np.float32)
    heights[:, 0] = rng.uniform(64, 192, rows * 3)
    pixels = np.clip(heights @ planes, 0, 230).astype(np.uint8)
    made = pixels.reshape(rows, 3, -1).transpose(0, 2, 1).reshape(rows, SIGNATURE_BYTES)
    made[rows - len(earlier) :] = np.rint(earlier * 1.05)
    return made


def shard_table(rng: np.random.Generator, shard: str, start: int, rows: int) -> pa.Table:
    """Index rows of one shard, 2 % of them with the picture of an earlier one."""
    image = rng.integers(0, 2**63, rows, dtype=np.uint64)
    twins = rng.choice(np.arange(1, rows), rows // 50, replace=False)
    image[twins] = image[0]
    captions = [" ".join(line) for line in WORDS[rng.integers(0, len(WORDS), (rows, 9))]]
    for row in range(0, rows, 40):
        captions[row] = f"IMG_{start + row:05d}.jpg"
    place = np.arange(rows) * 8192
    columns = {
        "key": [f"train-{row:08d}" for row in range(start, start + rows)],
        "split": [shard.partition("/")[0]] * rows,
        "shard": [shard] * rows,
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
        "caption_words": [caption.count(" ") + 1 for caption in captions],
        "caption_chars": [len(caption) for caption in captions],
        "class_id": np.full(rows, NO_CLASS),
        "image_hash": hex_column(image),
        "caption_hash": hex_column(rng.integers(0, 2**63, rows, dtype=np.uint64)),
    }
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in SCHEMA}, schema=SCHEMA)


def shard_names(rows: int) -> list[str]:
    numbers = range(-(-rows // PER_SHARD))
    last = [number for number in numbers if number % PER_EVALUATION == PER_EVALUATION - 1]
    train = [number for number in numbers if number not in set(last)]
    return [f"train/{number:05d}.tar" for number in train] + [f"test/{number:05d}.tar" for number in last]


def marker_of(folder: Path, shard: str) -> Path:
    return (folder / "markers" / shard).with_suffix(".parquet")


def make(folder: Path, rows: int) -> None:
    """Write index and markers, the shards of training first."""
    names = shard_names(rows)
    with pq.ParquetWriter(folder / INDEX, SCHEMA, compression="zstd") as writer:
        pending: list[pa.Table] = []
        for number, shard in enumerate(names):
            rng = np.random.default_rng([0, number])
            count = min(PER_SHARD, rows - number * PER_SHARD)
            pending.append(shard_table(rng, shard, number * PER_SHARD, count))
            earlier = np.load(marker_of(folder, names[number // 2]).with_suffix(".npy")) if number else np.empty(0)
            copied = earlier[rng.choice(len(earlier), count // 50, replace=False)] if number else earlier
            write_marker(
                marker_of(folder, shard),
                b"",
                np.full(count, 40, np.float32),
                signatures_of(rng, count, copied.reshape(-1, SIGNATURE_BYTES)),
            )
            if len(pending) == 6 or number == len(names) - 1:
                writer.write_table(pa.concat_tables(pending), row_group_size=1 << 16)
                pending = []


class Phases:
    """Seconds, and the most memory so far, at the end of each phase."""

    def __init__(self) -> None:
        self.figures: dict[str, dict[str, float]] = {}
        self._last = (time.perf_counter(), time.process_time())

    def end(self, name: str) -> None:
        """Note what the phase that ends here took."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.figures[name] = {
            "wall_s": round(wall - self._last[0], 1),
            "cpu_s": round(cpu - self._last[1], 1),
            "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        }
        print(name, self.figures[name], file=sys.stderr, flush=True)
        self._last = (time.perf_counter(), time.process_time())


def measure(raw: Path, rows: int) -> dict[str, object]:
    begun = (time.perf_counter(), time.process_time())
    phases = Phases()
    names = shard_names(rows)
    shards = shards_in_order(raw, {"files": dict.fromkeys(names)})
    measures = Measures(tuple(marker_of(raw, shard) for shard in shards), np.cumsum(list(shards.values())))
    codes = read_splits(raw)
    phases.end("shards_and_splits")
    decisions = decide(raw, measures, CONFIG, codes.among(["train"]))
    phases.end("decisions")
    roles = {"train": "train", "test": "retrieval"}
    counts = zip(codes.names, np.bincount(codes.codes).tolist(), strict=True)
    declared = {split: {"role": roles[split], "samples": count, "listed": count} for split, count in counts}
    splits = split_table(raw, codes, declared, decisions, CONFIG)
    phases.end("split_table_and_keys")
    profile = make_profile(raw, codes, decisions.reasons, CONFIG.language.sample)
    splits = add_facts(splits, {"splits": declared, "languages": ["en"]}, profile, CONFIG)
    phases.end("profile")
    site = raw / "site"
    site.mkdir()
    parts = (batch.to_pandas() for batch in batches(raw, SCHEMA.names))
    tables = [
        Table("splits", [splits], split_checks(CONFIG.language.severity), "split"),
        Table("samples", parts, sample_checks(list(declared))),
    ]
    checks = run_suites(tables, site)
    phases.end("great_expectations_with_import")
    write_tables(raw / "out", raw, decisions)
    phases.end("tables")
    return {
        "rows": rows,
        "wall_s": round(time.perf_counter() - begun[0], 1),
        "cpu_s": round(time.process_time() - begun[1], 1),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "phases": phases.figures,
        "rejected_by_reason": {reason: count for reason, count in decisions.counts().items() if count},
        "failed_checks": [check["name"] for check in checks if not check["passed"]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--make", type=Path, help="make the rows in this folder, and measure nothing")
    parser.add_argument("--made", type=Path, help="measure rows made before, and print the figures")
    arguments = parser.parse_args()
    if arguments.make:
        make(arguments.make, arguments.rows)
        return
    if arguments.made:
        print(json.dumps(measure(arguments.made, arguments.rows)))
        return
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), arguments.rows)
        # a process of its own, so that making the rows does not count as memory
        command = [sys.executable, __file__, "--made", folder, "--rows", str(arguments.rows)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    stored = RESULTS / "validate.json"
    before = json.loads(stored.read_text()) if stored.exists() else {}
    results = {name: figures for name, figures in before.items() if name.startswith("rows_")}
    record("validate", {**results, f"rows_{arguments.rows}": json.loads(output.splitlines()[-1])})


if __name__ == "__main__":
    main()
