"""Measure the way from shards to decoded pictures: local files, an object store seen first, and its cached copies.

Run ``python benchmarks/streaming.py`` in the repository root; it writes benchmarks/results/streaming.json. One round is
an epoch in windowed order through PyTorch's loader in each mode, the modes one after another, so that what else the
machine does hits all of them; the figures are medians over rounds. The store is SeaweedFS on this machine: it shares
the cores with the loader and has no network in between, so ``cold`` bounds our own cost, not a provider's bandwidth.
``cold_without_prefetch`` downloads a shard when a picture in it is asked for; ``download_mib_per_second`` is one large
shard in one process, checksum and flush to disk included. Local files come from the page cache. CPU time of the
loader, without the server, is the figure to compare on a busy machine.
"""

import argparse
import io
import os
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pyarrow as pa
from PIL import Image
from record import record
from torch.utils.data import DataLoader, Dataset

from assets.shard_cache import ShardCache
from assets.shards import ShardWriter
from assets.sources.base import Sample
from assets.store import StoreConfig, open_store
from pipelines import store_server
from training.data.order import SampleOrder
from training.data.pairs import PairReader, Pairs

SIDE = 224
PICTURES = 200
BATCH = 250
WINDOW = 4
WORKERS = 2
MIB = 1 << 20


def pictures() -> list[bytes]:
    """JPEGs of smooth noise, about as large as web photographs of that side."""
    random, found = np.random.default_rng(0), []
    for _ in range(PICTURES):
        small = Image.fromarray(random.integers(0, 256, (28, 28, 3), dtype=np.uint8))
        stream = io.BytesIO()
        small.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
        found.append(stream.getvalue())
    return found


def make_pairs(folder: Path, shards: int, per_shard: int) -> Pairs:
    images = pictures()
    offsets, sizes = [], []
    for shard in range(shards):
        with (folder / f"{shard:05d}.tar").open("wb") as stream:
            writer = ShardWriter(stream)
            for number in range(per_shard):
                key = f"{shard:05d}-{number:05d}"
                place = writer.write(Sample(key, images[(shard + number) % PICTURES], "jpg", key, {}))
                offsets.append(place.image_offset)
                sizes.append(place.image_size)
            writer.close()
    total = shards * per_shard
    return Pairs(
        folder=folder,
        shards=tuple(f"{shard:05d}.tar" for shard in range(shards)),
        shard=np.repeat(np.arange(shards, dtype=np.int32), per_shard),
        offset=np.array(offsets),
        size=np.array(sizes),
        keys=pa.array([str(number) for number in range(total)]),
        captions=pa.array([""] * total),
    )


class Steps(Dataset[int]):
    """Item s is the sum over all pixels of step s, so that modes can be compared."""

    def __init__(self, pairs: Pairs, ahead: bool) -> None:
        self.order = SampleOrder(len(pairs), BATCH, 0, pairs.shard_sizes, WINDOW)
        self.steps = len(pairs) // BATCH
        self._pairs, self._ahead = pairs, ahead
        self._reader: PairReader | None = None

    def __getitem__(self, step: int) -> int:
        if self._reader is None:
            self._reader = PairReader(self._pairs)
        if self._ahead:
            self._pairs.prefetch(self.order.shards_ahead(step, self.steps))
        positions, _ = self.order.batch(step)
        return sum(int(self._reader.image(position).sum()) for position in positions.tolist())


def cpu_seconds() -> float:
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def epoch(pairs: Pairs, ahead: bool) -> tuple[float, float, int]:
    """Return images per second, CPU milliseconds per image, and the sum over all pixels."""
    steps = Steps(pairs, ahead)
    begin, begin_cpu = time.perf_counter(), cpu_seconds()
    total = sum(DataLoader(steps, batch_size=None, sampler=range(steps.steps), num_workers=WORKERS))
    cpu = 1000 * (cpu_seconds() - begin_cpu) / len(pairs)
    return len(pairs) / (time.perf_counter() - begin), cpu, total


def measure(root: Path, shards: int, per_shard: int, rounds: int) -> dict[str, object]:
    (root / "raw").mkdir()
    local = make_pairs(root / "raw", shards, per_shard)
    port = next(port for port in range(29300, 32000, 17) if store_server.port_is_free(port))
    values = {"server": "seaweedfs", "endpoint": f"http://127.0.0.1:{port}", "bucket": "bench", "region": "us-east-1"}
    config = StoreConfig.model_validate(values)
    store_server.start(config, root)
    try:
        client = open_store(config, root / ".store").client
        for shard in local.shards:
            client.fput_object("bench", shard, str(local.folder / shard))
        stored = replace(local, shards=tuple(f"s3://bench/{shard}" for shard in local.shards))
        rates: dict[str, list[float]] = {name: [] for name in ("local", "cold", "warm", "cold_without_prefetch")}
        cpus: dict[str, list[float]] = {name: [] for name in rates}
        downloads, large = [], 16 * int(local.shard_bytes.max())
        client.put_object("bench", "large.tar", io.BytesIO(os.urandom(large)), large)
        sums = set()
        for number in range(rounds):
            begin = time.perf_counter()
            ShardCache(root / f"{number}-large", 1 << 40, config, root / ".store").path("s3://bench/large.tar")
            downloads.append(large / MIB / (time.perf_counter() - begin))
            caches = [ShardCache(root / f"{number}-{k}", 1 << 40, config, root / ".store") for k in range(2)]
            modes = [
                ("local", local, False),
                ("cold", replace(stored, cache=caches[0]), True),
                ("warm", replace(stored, cache=caches[0]), True),
                ("cold_without_prefetch", replace(stored, cache=caches[1]), False),
            ]
            for name, pairs, ahead in modes:
                rate, cpu, total = epoch(pairs, ahead)
                rates[name].append(rate)
                cpus[name].append(cpu)
                sums.add(total)
        assert len(sums) == 1, "every mode reads the same pixels"
    finally:
        store_server.stop(config, root)
    return {
        "pictures": len(local),
        "shards": shards,
        "shard_mib": round(float(local.shard_bytes.mean()) / MIB, 1),
        "rounds": rounds,
        "download_mib_per_second": round(statistics.median(downloads)),
        "images_per_second": {name: round(statistics.median(values)) for name, values in rates.items()},
        "cpu_ms_per_image": {name: round(statistics.median(values), 3) for name, values in cpus.items()},
        "images_per_second_of_rounds": {name: [round(value) for value in values] for name, values in rates.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a few seconds, to see that it runs; nothing is written")
    small = parser.parse_args().small
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), *((4, 250, 1) if small else (12, 300, 5)))
    settings = {"picture_pixels": SIDE, "batch": BATCH, "window_shards": WINDOW, "workers": WORKERS}
    if small:
        print(result)
    else:
        record("streaming", {"settings": settings, **result})


if __name__ == "__main__":
    main()
