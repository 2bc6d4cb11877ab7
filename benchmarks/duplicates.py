"""Measure the search for near-duplicates: what it finds on emoji scenes, and how long a million rows take.

Run ``python benchmarks/duplicates.py`` in the repository root; it writes benchmarks/results/duplicates.json. The scenes
are those of the demo, which say in their metadata whose scene they repeat. A row rejected that repeats none counts as a
false positive, though it may show the same drawing in the same place by chance. The million rows are random smooth
pictures, 1 % of them again, moved by 1 % of their width and 5 % lighter.
"""

import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from record import record

from assets.section import read_yaml
from assets.sources.emoji_scenes.config import EmojiScenesConfig
from assets.sources.emoji_scenes.source import EmojiScenes
from assets.validation.candidates import TABLES, candidate_pairs, keys, num_signs_per_key
from assets.validation.duplicates import near
from assets.validation.resemblance import distances
from assets.validation.scan import measure
from assets.validation.signature import SIGNATURE_BYTES, SIGNATURE_SIDE
from assets.validation.traits import Traits, traits_of

DISTANCES = (0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.1, 0.15, 0.2)
CHOSEN = 0.06
ROWS, COPIES, ROWS_AT_ONCE, PAIRS_AT_ONCE = 1_000_000, 10_000, 1 << 14, 1 << 18
SHIFT, GAIN = 0.01, 1.05
PROFILE = Path(__file__).resolve().parent.parent / "profiles" / "demo.yaml"


class Clock:
    """Seconds of the steps, wall and processor."""

    def __init__(self) -> None:
        self.steps: dict[str, dict[str, float]] = {}
        self._last = (time.perf_counter(), time.process_time())

    def lap(self, step: str) -> None:
        """Note the seconds since the last step."""
        now = (time.perf_counter(), time.process_time())
        self.steps[step] = {"wall_s": round(now[0] - self._last[0], 2), "cpu_s": round(now[1] - self._last[1], 2)}
        self._last = (time.perf_counter(), time.process_time())


def scenes() -> dict[str, object]:
    settings = read_yaml(PROFILE)["datasets"]["emoji"]["source"]
    count = settings["sizes"]["train"]
    table = np.zeros((count, SIGNATURE_BYTES), dtype=np.uint8)
    originals: list[int] = []
    for row, sample in enumerate(EmojiScenes(EmojiScenesConfig.model_validate(settings)).samples("train", 0, count)):
        measure(sample.image, table[row])
        originals.append(int((sample.metadata["duplicate_of"] or "train--1").partition("-")[2]))
    repeats, rows = np.array(originals) >= 0, np.arange(len(originals))
    clock = Clock()
    traits = traits_of(table)
    clock.lap("traits")
    pairs = candidate_pairs(traits, 0, True)
    clock.lap("candidates")
    apart = distances(table, pairs[:, 0], pairs[:, 1])
    clock.lap("distances")
    meet = {rows_there: met(traits, np.array(originals), rows_there) for rows_there in (16_000, 1_000_000, 15_000_000)}
    curve: list[dict[str, float]] = []
    for limit in DISTANCES:
        rejected = np.isin(rows, near(pairs[apart <= limit], rows).rows)
        curve.append(
            {
                "max_distance": limit,
                "recall": round(float(rejected[repeats].mean()), 4),
                "false_positives": round(float(rejected[~repeats].mean()), 4),
                "rejected": int(rejected.sum()),
            }
        )
    counts = {"rows": len(rows), "planted": int(repeats.sum()), "pairs": len(pairs)}
    return {**counts, "planted_meet_in_a_table_by_rows": meet, "curve": curve, **clock.steps}


def met(traits: Traits, originals: np.ndarray, num_rows: int) -> float:
    """Return the share of planted pairs with an equal key in some table, were there so many rows."""
    later = np.flatnonzero(originals >= 0)
    earlier, found = originals[later], np.zeros(len(later), dtype=bool)
    for table in range(TABLES):
        key = keys(traits, table, num_signs_per_key(num_rows))
        found |= key[later] == key[earlier]
    return round(float(found.mean()), 4)


def random_signatures(rows: int, copies: int) -> np.ndarray:
    """Return smooth random pictures, the last of them the first ones moved and lighter, uint8 [rows, 972]."""
    rng = np.random.default_rng(0)
    place = (np.arange(SIGNATURE_SIDE) + 0.5) / SIGNATURE_SIDE
    made = np.empty((rows, SIGNATURE_SIDE, SIGNATURE_SIDE, 3), dtype=np.uint8)
    kept = np.empty((copies, 6, 6, 3), dtype=np.float32)

    def draw(heights: np.ndarray, at: np.ndarray) -> np.ndarray:
        waves = np.cos(np.pi * np.arange(6)[:, None] * at).astype(np.float32)
        across = np.tensordot(heights, waves, axes=([2], [0]))  # [rows, 6, 3, 18]
        return np.tensordot(across, waves, axes=([1], [0])).transpose(0, 3, 2, 1)

    for start in range(0, rows - copies, ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, rows - copies)
        heights = rng.normal(0, 20, (stop - start, 6, 6, 3)).astype(np.float32)
        heights[:, 0, 0] = rng.uniform(64, 192, (stop - start, 3))
        kept[start:stop] = heights[: max(0, copies - start)]
        made[start:stop] = np.clip(draw(heights, place), 0, 240)
    made[rows - copies :] = np.clip(GAIN * np.clip(draw(kept, place + SHIFT), 0, 240), 0, 255)
    return made.reshape(rows, -1)


def million() -> dict[str, object]:
    table = random_signatures(ROWS, COPIES)
    clock = Clock()
    traits = traits_of(table)
    clock.lap("traits")
    pairs = candidate_pairs(traits, 0, True)
    clock.lap("candidates")
    parts = [pairs[start : start + PAIRS_AT_ONCE] for start in range(0, len(pairs), PAIRS_AT_ONCE)]
    close = pairs[np.concatenate([distances(table, part[:, 0], part[:, 1]) for part in parts]) <= CHOSEN]
    clock.lap("distances")
    rows = near(close, np.arange(ROWS)).rows
    clock.lap("decisions")
    return {
        "rows": ROWS,
        "copies": COPIES,
        "copies_rejected": int((rows >= ROWS - COPIES).sum()),
        "others_rejected": int((rows < ROWS - COPIES).sum()),
        "pairs": len(pairs),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        **clock.steps,
    }


def main() -> None:
    record("duplicates", {"emoji_scenes_64_px": scenes(), "random_rows": million()})


if __name__ == "__main__":
    main()
