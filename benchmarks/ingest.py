"""Measure ingest in one process: pairs per second at 64 and 128 px, the whole way from scene to indexed shard.

Run ``python benchmarks/ingest.py`` in the repository root; it writes benchmarks/results/ingest.json. CPU time is the
figure to compare, because the wall clock also counts what else the machine does. ``cold`` includes reading and
measuring the sprites, which happens once per process; ``warm`` is the rate after that.
"""

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from record import record

from assets.shard_tasks import ShardTask, Workspace, write_shard
from assets.sources.base import open_source
from assets.sources.emoji_scenes import sprites
from assets.sources.emoji_scenes.config import EmojiScenesConfig, SplitSizes

PER_SHARD = 2000
SHARDS = 5


def make_config(side: int) -> EmojiScenesConfig:
    sizes = SplitSizes(
        train=PER_SHARD * SHARDS,
        test=0,
        test_style=0,
        test_pairs=0,
        zero_shot_per_class=0,
        zero_shot_style_per_class=0,
    )
    return EmojiScenesConfig(
        kind="emoji_scenes", seed=0, image_size=side, sizes=sizes, num_concepts=1000, num_classes=200
    )


def measure(side: int) -> dict[str, float]:
    sprites.load.cache_clear()
    sprites.stamp.cache_clear()
    source = open_source(make_config(side))
    cpu, wall, size = [], [], 0
    with tempfile.TemporaryDirectory() as folder:
        space = Workspace(Path(folder) / "output", Path(folder) / "markers")
        for number in range(SHARDS):
            task = ShardTask("train", number, number * PER_SHARD, (number + 1) * PER_SHARD)
            begin_cpu, begin_wall = time.process_time(), time.perf_counter()
            write_shard(source, task, space)
            cpu.append(time.process_time() - begin_cpu)
            wall.append(time.perf_counter() - begin_wall)
            size += (space.output / task.name).stat().st_size
    warm = SHARDS - 1
    return {
        "pairs": PER_SHARD * SHARDS,
        "pairs_per_cpu_second": round(PER_SHARD * SHARDS / sum(cpu), 1),
        "pairs_per_cpu_second_cold_first_shard": round(PER_SHARD / cpu[0], 1),
        "pairs_per_cpu_second_warm": round(PER_SHARD * warm / sum(cpu[1:]), 1),
        "pairs_per_wall_second": round(PER_SHARD * SHARDS / sum(wall), 1),
        "kib_per_pair": round(size / 1024 / PER_SHARD / SHARDS, 2),
    }


def main() -> None:
    record("ingest", {f"{side}_px": measure(side) for side in (64, 128)})


if __name__ == "__main__":
    main()
