"""Plant faults of every kind into emoji scenes, run ``ingest`` and ``validate``, and count what is found.

Run ``python benchmarks/planted_faults.py`` in the repository root; it writes benchmarks/results/planted_faults.json.
The scenes are those of the demo without noisy captions; near-duplicates are the generator's own, which says whose scene
they repeat. All other faults are put into pictures and captions here. What is left is clean: a clean pair that is
rejected counts as a false positive.
"""

import io
import itertools
import json
import random
import struct
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pyarrow.parquet as pq
from PIL import Image
from record import record

from assets.__main__ import main as run
from assets.atomic import write_text
from assets.manifest import read_manifest
from assets.section import read_yaml
from assets.shards import ShardWriter
from assets.sources.base import Sample
from assets.sources.emoji_scenes.config import EmojiScenesConfig
from assets.sources.emoji_scenes.source import EmojiScenes

PROFILE = Path(__file__).resolve().parent.parent / "profiles" / "demo.yaml"
NUM_TRAIN, NUM_TEST, PER_SHARD, NUM_COPIES = 16_000, 500, 2_000, 500
FILE_NAMES = ("IMG_2041.jpg", "DSC00312", "https://example.org/a/b.png", "screenshot-2020-01-01", "C:\\photos\\a.bmp")
GENERIC = ("A nice picture.", "stock photo", "untitled", "Image")
Change = Callable[[Sample, random.Random], Sample]


def png_of(width: int, height: int) -> bytes:
    """Return a grey PNG, made line by line so that the largest needs no memory."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    packer = zlib.compressobj(9)
    lines = b"".join(packer.compress(bytes(width + 1)) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


def resized(image: bytes, width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.open(io.BytesIO(image)).convert("RGB").resize((width, height)).save(stream, "JPEG", quality=80)
    return stream.getvalue()


def flat(draw: random.Random) -> bytes:
    stream = io.BytesIO()
    colour = (draw.randrange(256), draw.randrange(256), draw.randrange(256))
    Image.new("RGB", (64, 64), colour).save(stream, "JPEG")
    return stream.getvalue()


def changes(tests: list[bytes]) -> dict[str, tuple[int, set[str], Change]]:
    """Return fault -> (how many, reasons that name it, how it is made)."""
    bomb = png_of(10_000, 10_000)
    return {
        "torn_jpeg": (200, {"undecodable"}, lambda s, d: replace(s, image=s.image[: len(s.image) * 2 // 3])),
        "web_page": (100, {"undecodable"}, lambda s, d: replace(s, image=b"<!doctype html><h1>404</h1>" * 20)),
        "random_bytes": (100, {"undecodable"}, lambda s, d: replace(s, image=d.randbytes(3000))),
        "no_bytes": (100, {"no_image"}, lambda s, d: replace(s, image=b"")),
        "blank": (200, {"blank"}, lambda s, d: replace(s, image=flat(d))),
        "too_small": (100, {"too_small"}, lambda s, d: replace(s, image=resized(s.image, 16, 16))),
        "100_megapixels": (20, {"too_large"}, lambda s, d: replace(s, image=bomb, extension="png")),
        "long_side": (20, {"too_large"}, lambda s, d: replace(s, image=resized(s.image, 4200, 1500))),
        "aspect_ratio": (50, {"aspect_ratio"}, lambda s, d: replace(s, image=resized(s.image, 256, 64))),
        "test_picture": (100, {"in_evaluation"}, lambda s, d: replace(s, image=d.choice(tests))),
        "empty_caption": (100, {"empty_caption"}, lambda s, d: replace(s, caption=" ")),
        "file_name_caption": (100, {"file_name"}, lambda s, d: replace(s, caption=d.choice(FILE_NAMES))),
        "generic_caption": (100, {"generic"}, lambda s, d: replace(s, caption=d.choice(GENERIC))),
    }


def make(folder: Path) -> tuple[dict[str, str], dict[str, set[str]]]:
    """Write the tars and return key -> fault, "" for clean pairs, and fault -> reasons that name it."""
    settings = read_yaml(PROFILE)["datasets"]["emoji"]["source"]
    sizes = {name: 0 for name in settings["sizes"]} | {"train": NUM_TRAIN, "test": NUM_TEST}
    source = EmojiScenes(EmojiScenesConfig.model_validate({**settings, "noise_share": 0.0, "sizes": sizes}))
    draw = random.Random(0)
    tests = list(source.samples("test", 0, NUM_TEST))
    _write(folder / "test", iter(tests))
    train = list(source.samples("train", 0, NUM_TRAIN))
    origins = {sample.metadata["duplicate_of"] for sample in train}
    truth = {sample.key: "near_duplicate" if sample.metadata["duplicate_of"] else "" for sample in train}
    free = [place for place, sample in enumerate(train) if not truth[sample.key] and sample.key not in origins]
    draw.shuffle(free)
    reasons: dict[str, set[str]] = {"near_duplicate": {"near_duplicate"}, "exact_copy": {"duplicate_image"}}
    for fault, (number, named, change) in changes([sample.image for sample in tests]).items():
        reasons[fault] = named
        for place in (free.pop() for _ in range(number)):
            train[place] = change(train[place], draw)
            truth[train[place].key] = fault
    copies = [replace(train[free.pop()], key=f"copy-{number:05d}") for number in range(NUM_COPIES)]
    truth |= {sample.key: "exact_copy" for sample in copies}
    _write(folder / "train", iter([*train, *copies]))
    return truth, reasons


def _write(folder: Path, samples: Iterator[Sample]) -> None:
    folder.mkdir(parents=True)
    for number in range(1000):
        part = list(itertools.islice(samples, PER_SHARD))
        if not part:
            return
        with (folder / f"{number:05d}.tar").open("wb") as stream:
            writer = ShardWriter(stream)
            for sample in part:
                writer.write(replace(sample, metadata={}))
            writer.close()


def write_params(folder: Path) -> Path:
    """Write a params.yaml with the demo's limits, but for the share of rejected pairs."""
    params = read_yaml(PROFILE)
    validation = params["datasets"]["emoji"]["validation"]
    validation["limits"] |= {"max_rejected_train": 1.0, "warn_rejected_train": 1.0}
    splits = {
        "train": {"shards": str(folder / "train/*.tar"), "role": "train"},
        "test": {"shards": str(folder / "test/*.tar"), "role": "retrieval"},
    }
    source = {"kind": "webdataset", "licence": "made here", "splits": splits}
    params["datasets"] = {"planted": {"samples_per_shard": PER_SHARD, "source": source, "validation": validation}}
    write_text(folder / "params.yaml", json.dumps(params))  # every JSON text is YAML
    return folder / "params.yaml"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        truth, reasons = make(folder)
        stage = ["--name", "planted", "--params", str(write_params(folder))]
        raw, valid = str(folder / "raw"), folder / "valid"
        assert run(["ingest", *stage, "--out", raw]) == 0
        assert run(["validate", *stage, "--in", raw, "--out", str(valid), "--docs", str(folder / "docs")]) == 0
        counts: dict[str, Any] = read_manifest(valid)["counts"]
        rejected = {row["key"]: row["reason"] for row in pq.read_table(valid / "rejects.parquet").to_pylist()}
        accepted = pq.read_table(valid / "accepted.parquet").num_rows
    total = Counter(truth.values())
    found = {
        fault: {
            "planted": total[fault],
            "rejected": sum(key in rejected for key, what in truth.items() if what == fault),
            "rejected_by_name": sum(rejected.get(key) in named for key, what in truth.items() if what == fault),
        }
        for fault, named in reasons.items()
    }
    clean = Counter(rejected[key] for key, what in truth.items() if not what and key in rejected)
    record(
        "planted_faults",
        {
            "faults": found,
            "clean": {"pairs": total[""], "rejected": clean.total(), "by_reason": dict(clean)},
            "ingested": counts["ingested"],
            "written": len(truth) + NUM_TEST,
            "accepted_plus_rejected": accepted + len(rejected),
        },
    )


if __name__ == "__main__":
    main()
