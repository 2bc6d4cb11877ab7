"""A small data set of coloured squares with every evaluation split, its validation, and a tiny untrained export."""

import io
import itertools
import json
from pathlib import Path

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from ruamel.yaml import YAML
from safetensors.torch import save_file

from assets.config import MAY_BE_EMPTY
from assets.index import index_row, rows_table, write_table
from assets.manifest import version_of, write_manifest
from assets.shards import ShardWriter
from assets.sources.base import Sample

COLOURS = ("red", "green", "blue", "yellow", "white", "purple")
GERMAN = dict(zip(COLOURS, ("rotes", "gruenes", "blaues", "gelbes", "weisses", "lila"), strict=True))
SPLITS = {
    "test": ("retrieval", "in_domain", 30),
    "test_style": ("retrieval", "held_out_style", 30),
    "train": ("train", "in_domain", 8),
    "zero_shot": ("zero_shot", "in_domain", 18),
}
MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
EVALUATION = {
    "batch_size": 7,
    "bootstrap": {"resamples": 100, "seed": 0},
    "evaluators": {
        "zero_shot": {"templates": ["a {name} square", "{plural}"]},
        "retrieval": {"examples": 3, "candidates": 4},
    },
}
REPORT = {
    "title": "Squares",
    "main_metric": "zero_shot.in_domain.top1",
    "columns": ["zero_shot.in_domain.top1", "retrieval.in_domain.mean_recall"],
    "curves": ["train/loss", "train/absent"],
    "examples": 2,
    "candidates": 3,
    "thumbnail_pixels": 24,
}


def sample(split: str, number: int, role: str) -> Sample:
    outer, inner = list(itertools.permutations(COLOURS, 2))[number % 30]
    pixels = np.zeros((40, 40, 3), dtype=np.uint8)
    pixels[:] = Image.new("RGB", (1, 1), outer).getpixel((0, 0))
    pixels[10:30, 10:30] = Image.new("RGB", (1, 1), inner).getpixel((0, 0))
    pixels[0, number % 40] = number  # no two pictures are equal
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    metadata = {"class_id": number % len(COLOURS)} if role == "zero_shot" else {}
    captions = {
        "en": f"a {inner} square on {outer}",
        "de": f"ein {GERMAN[inner]} Quadrat, ein {GERMAN[outer]} Bild",
        "long": f"This is a picture of two plain colours. Its ground is {outer}. A {inner} square is in its middle.",
    }
    return Sample(f"{split}-{number:04d}", stream.getvalue(), "png", captions["en"], {**metadata, "captions": captions})


def write_raw(folder: Path, splits: dict = SPLITS) -> Path:
    rows = []
    for name, (role, _, size) in splits.items():
        (folder / name).mkdir(parents=True)
        with (folder / name / "00000.tar").open("wb") as stream:
            writer = ShardWriter(stream)
            for number in range(size):
                item = sample(name, number, role)
                rows.append(index_row(item, name, f"{name}/00000.tar", writer.write(item)))
            writer.close()
    write_table(rows_table(rows), folder / "index.parquet")
    classes = [
        {"class_id": i, "name": c, "plural": f"{c}s", "group": "colour", "train_count": 9 - i, "frequency": f}
        for i, (c, f) in enumerate(zip(COLOURS, ["head", "head", "mid", "mid", "tail", "tail"], strict=True))
    ]
    facts = {name: {"role": role, "domain": domain, "samples": n} for name, (role, domain, n) in splits.items()}
    card = {"name": "squares", "licence": "CC0", "attribution": ["nobody"], "splits": facts, "classes": classes}
    card["languages"] = ["en", "de"]
    (folder / "dataset.json").write_text(json.dumps(card))
    write_manifest(folder, "raw", "squares", {}, {"samples": len(rows)}, {}, "0")
    return folder


def write_valid(folder: Path, raw: Path, rejected: frozenset[str] = frozenset()) -> Path:
    folder.mkdir(parents=True)
    index = pq.read_table(raw / "index.parquet", columns=["key", "split"]).to_pylist()
    accepted = [row for row in index if row["key"] not in rejected]
    write_table(pa.Table.from_pylist(accepted), folder / "accepted.parquet")
    counts = {"ingested": len(index), "accepted": len(accepted), "rejected": len(rejected)}
    reasons = {"blank": len(rejected)} if rejected else {}
    share = len(rejected) / len(index)
    metrics = {**counts, "rejected_share": share, "rejected_by_reason": reasons}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    write_manifest(folder, "valid", "squares", {}, counts, {"raw": version_of(raw)}, "0")
    return folder


def write_model(folder: Path, name: str = "a", seed: int = 0) -> Path:
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    model = open_clip.CLIP(**MODEL)
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL, "preprocess_cfg": preprocess}))
    write_manifest(folder, "model", name, {}, {}, {}, "0")
    return folder


def write_params(path: Path, runs: dict, **sections: dict) -> Path:
    data = {
        "profile": "toy",
        "automation": {},
        "machine": {"workers": 0, "threads": 1, "device": "cpu", "tensorboard": False},
        "store": {},
        "datasets": {"squares": {}},
        **{section: {} for section in MAY_BE_EMPTY},
        "recipes": {"clip": {}, "siglip": {}},
        "runs": runs,
        "evaluation": EVALUATION,
        "report": REPORT,
        **sections,
    }
    YAML().dump(data, path)
    return path


def run(recipe: str, seed: int) -> dict:
    names = dict.fromkeys(("policy", "features", "teacher", "start"), "none")
    return {"recipe": recipe, "dataset": "squares", **names, "seed": seed}


RUNS = {"clip-s0": run("clip", 0), "clip-s1": run("clip", 1), "siglip-s0": run("siglip", 0)}
