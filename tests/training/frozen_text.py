"""Frozen text for the toy data: rows that know a caption's words, the folder they lie in, and recipes that use them."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from assets.language.lexicon import write_lexicon
from assets.manifest import version_of
from assets.sidecar import SidecarWriter
from assets.text_rows import SLOT_MEANS
from tests.training.engine.rank_cases import SLOTS, WIDTH, lexicon, text_facts
from tests.training.view_batches import ATTENTIVE, HEADS, OPTIM, TOWERS
from training.data.pairs import load_pairs

__all__ = ["RECIPES", "SLOTS", "WIDTH", "lexicon", "text_facts"]

# an entry of params.yaml; what the folder holds is another matter
ENTRY = {"kind": "sentences", "dataset": "toy", "encoder": "minilm"}
CONFIG = {"kind": "facets", "slots": [list(slot) for slot in SLOTS], "model": "a toy"}


def towers(center: bool = False, **changes) -> dict:
    """Towers of 4 x 4 patches without a text tower."""
    plain = {name: value for name, value in TOWERS.items() if name not in ("embed_dim", "text")}
    return {**plain, "text": {"kind": "frozen", "center": center}, **changes}


def flame(loss: str = "softmax", count: int = 2, **changes) -> dict:
    return {"method": {"kind": "flame", "loss": loss, "rows_per_image": count}, "towers": towers(), **changes}


def lexvla(head: dict | None = None, **changes) -> dict:
    method = {"kind": "lexvla", "overuse_image": 0.1, "overuse_text": 0.2, "flops_image": 0.3, "warmup_steps": 4}
    return {"method": method, "towers": lexical_towers(**(head or {})), **changes}


def lexical_towers(**head) -> dict:
    return towers(head={"kind": "lexical", "width": 12, "text_rank": 3, **head})


RECIPES = {
    "flame": flame(),
    "flame_sigmoid": flame("sigmoid", masking={"kind": "random", "block": 2}),
    "frozen_clip": {"method": {"kind": "clip"}, "towers": towers(head={"kind": "pooled", "width": 20})},
    "frozen_siglip": {"method": {"kind": "siglip"}, "towers": towers()},
    "lexvla": lexvla(),
    "lexvla_masked": lexvla({"blocks": 0, "pool_cls": False}, masking={"kind": "random", "block": 2}),
    "lexical_clip": {"method": {"kind": "clip"}, "towers": lexical_towers(codebook="random")},
    "lexical_flame": flame(towers=lexical_towers()),
    "lexical_aclip": {"method": {"kind": "aclip", **HEADS}, "towers": lexical_towers(), **ATTENTIVE, **OPTIM},
    "frozen_aclip": {"method": {"kind": "aclip", **HEADS}, "towers": towers(), **ATTENTIVE, **OPTIM},
}


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def toy_rows(captions: list[str]) -> np.ndarray:
    """Embed captions as sums of vectors of their words, most of the direction shared as a small model's; [n, R, D]."""
    words = sorted({word for caption in captions for word in caption.split()})
    random = np.random.default_rng(0)
    vectors = {word: random.normal(size=(len(SLOTS), WIDTH)) for word in words}
    shared = 4 * random.normal(size=(len(SLOTS), WIDTH))
    return unit(np.stack([shared + sum(vectors[word] for word in caption.split()) for caption in captions]))


def write_features(toy_data: tuple[Path, Path], folder: Path, dtype: str = "float16", **config) -> np.ndarray:
    """Write a folder of the stage ``features`` and return the unit rows it was made from, in the order of the pairs."""
    pairs = load_pairs(*toy_data)
    rows = toy_rows(pairs.captions.to_pylist())
    means = rows.mean(axis=0)
    stored = rows
    if dtype == "int8":
        stored = rows - means
        stored = np.rint(127 * stored / np.abs(stored).max(axis=-1, keepdims=True))
    writer = SidecarWriter(folder, dtype, rows.shape[1:])
    for shard in range(2):
        own = pairs.shard == shard
        writer.write_shard(f"train/{shard:05d}", pairs.keys.filter(pa.array(own)), stored[own].astype(dtype))
    versions = {name: version_of(path) for name, path in zip(("raw", "valid"), toy_data, strict=True)}
    stage = {**CONFIG, "centred": dtype == "int8", **config}
    writer.finish(["train/00000", "train/00001"], "toy", stage, versions, "test")
    np.save(folder / SLOT_MEANS, means.astype(np.float32))
    write_lexicon(folder, lexicon())
    return rows


def change_manifest(folder: Path, change) -> None:
    """Let ``change`` alter the manifest in place."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
