"""A counted data set and scored runs, written by hand: accuracy follows the logarithm of frequency by design."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from assets.manifest import write_manifest
from tests.evaluation.squares import write_params

DATA = {"raw": "r" * 16, "valid": "v" * 16}
SLOPE, START = 0.25, 0.1
COUNTS = [0] * 6 + np.rint(10 ** np.linspace(0, 2.6, 84)).astype(int).tolist()
NAMES = [f"Thing {place}" for place in range(len(COUNTS))]
GROUPS = [f"group {place % 3}" for place in range(len(COUNTS))]
RECIPES = {"clip": {"budget": {"samples_seen": 60_000, "batch_size": 50}}}
ENTRY = {"dataset": "squares", "list": "classes", "policy": "phrase", "embeddings": "none", "images": {"kind": "truth"}}
COUNT_TYPES = {"text_count": pa.int64(), "image_count": pa.int64(), "joint_count": pa.int64()}


def write_concepts(folder: Path, names=NAMES, with_images=True, inputs=DATA) -> Path:
    """One pair per count, whose caption and picture have the concept; and a pair whose sides disagree per concept."""
    folder.mkdir(parents=True)
    counts = np.array(COUNTS[: len(names)])
    one = [place for place, count in enumerate(counts.tolist()) for _ in range(count)]
    texts = [[place] for place in one] + [[place] for place in range(len(names))]
    images = [[place] for place in one] + [[(place + 1) % len(names)] for place in range(len(names))]
    unknown = np.full(len(names), -1)
    table = {
        "concept_id": pa.array(range(len(names)), pa.int32()),
        "name": names,
        "group": GROUPS[: len(names)],
        "aliases": pa.array([[]] * len(names), pa.list_(pa.string())),
        "text_count": counts + 1,
        "image_count": counts + 1 if with_images else unknown,
        "joint_count": counts if with_images else unknown,
        "frequency": ["mid"] * len(names),
    }
    pq.write_table(pa.table(table), folder / "concepts.parquet")
    lists = pa.list_(pa.int32())
    hits = {
        "key": [f"{place:06d}" for place in range(len(texts))],
        "text": pa.array(texts, lists),
        "image": pa.array(images if with_images else [None] * len(texts), lists),
    }
    pq.write_table(pa.table(hits), folder / "hits.parquet")
    tail = {"zero_share": 0.1, "top1_share": 0.2, "top10_share": 0.5, "gini": 0.7, "effective_number": 30.0}
    split = {"no_text": 0, "no_image": 0, "overlap": len(one), "disjoint": len(names), "rate_given_both": 0.0123}
    summary = {
        "concepts": len(names),
        "pairs": len(texts),
        "misalignment": {**split, "degree_fixed": 0.01, "degree_extracted": 0.01} if with_images else None,
        "tail": {"text": tail, "image": tail if with_images else None, "joint": None},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    write_manifest(folder, "concepts", "squares", {}, {"pairs": len(texts)}, inputs, "0")
    return folder


def class_rows(scores: np.ndarray, suite: str, names=NAMES, num_images: int = 40) -> list[dict]:
    return [
        {"suite": suite, "class_id": place, "name": name, "num_images": num_images, "top1": float(score)}
        for place, (name, score) in enumerate(zip(names, scores, strict=True))
    ]


def planted(seed: int, slope: float = SLOPE, noise: float = 0.03) -> np.ndarray:
    rng = np.random.default_rng(seed)
    line = START + slope * np.log10(np.maximum(COUNTS, 1)) + rng.normal(0, noise, len(COUNTS))
    return np.clip(np.where(np.array(COUNTS) > 0, line, 0.02), 0, 1)


def write_report(folder: Path, rows: list[dict], further: list[dict] | None = None, inputs=DATA) -> Path:
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "per_class.parquet")
    if further:
        pq.write_table(pa.Table.from_pylist(further), folder / "per_concept.parquet")
    write_manifest(folder, "report", folder.name, {}, {}, inputs, "0")
    return folder


def write_plan(folder: Path, rows: list[dict], inputs=DATA) -> Path:
    folder.mkdir(parents=True)
    schema = pa.schema(
        [("key", pa.string()), ("kept", pa.bool_()), ("caption", pa.string()), ("caption_of", pa.string())]
    )
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "plan.parquet")
    write_manifest(folder, "reduced", folder.name, {}, {}, inputs, "0")
    return folder


def run_entry(seed: int, policy: str = "none", dataset: str = "squares") -> dict:
    none = dict.fromkeys(("features", "teacher", "start"), "none")
    return {"recipe": "clip", "dataset": dataset, "policy": policy, **none, "seed": seed}


def params_for(path: Path, runs: dict) -> Path:
    return write_params(path, runs, recipes=RECIPES, concepts={"squares": ENTRY})
