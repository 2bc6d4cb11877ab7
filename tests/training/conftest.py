"""A toy data set of coloured discs, laid out as the ingest and validate stages publish theirs, and a tiny recipe."""

import copy
import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from ruamel.yaml import YAML

from assets.config import SECTIONS
from assets.manifest import write_manifest
from assets.sources.base import Sample
from tests.toy_folders import accept, write_shards

COLOURS = ["red", "green", "blue", "yellow", "white", "purple", "orange", "cyan"]
NUM_PAIRS = 64

PARAMS = {
    "profile": "toy",
    "machine": {"workers": 0, "threads": 1, "device": "cpu", "tensorboard": False},
    "store": {},
    "datasets": {"toy": {}},
    "recipes": {
        "clip": {
            "method": {"kind": "clip"},
            "towers": {
                "kind": "custom",
                "embed_dim": 16,
                "image_size": 32,
                "vision": {"kind": "vit", "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
                "text": {"context_length": 16, "width": 16, "heads": 2, "layers": 1},
            },
            "views": {"crop_area": [0.7, 1.0]},
            "budget": {"samples_seen": 192, "batch_size": 16},
            "optim": {
                "lr": 1e-3,
                "weight_decay": 0.1,
                "beta1": 0.9,
                "beta2": 0.98,
                "eps": 1e-6,
                "warmup_steps": 2,
                "gradient_clip": 1.0,
            },
            "precision": "fp32",
            "log_every": 1,
            "checkpoint_every": 3,
        }
    },
    "runs": {
        "toy-s0": {
            "recipe": "clip",
            "dataset": "toy",
            **dict.fromkeys(("policy", "features", "teacher", "start"), "none"),
            "seed": 0,
        }
    },
    "evaluation": {},
    "report": {},
}


def _picture(number: int) -> tuple[bytes, str]:
    background, disc = list(itertools.permutations(COLOURS, 2))[number % 56]
    image = Image.new("RGB", (32, 32), background)
    ImageDraw.Draw(image).ellipse((6, 6, 26, 26), fill=disc)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=95)
    return stream.getvalue(), f"a {disc} disc on {background}"


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory) -> tuple[Path, Path]:
    """Folders ``raw`` and ``valid`` with 64 pairs in two shards; the last pair is rejected."""
    root = tmp_path_factory.mktemp("toy")
    raw, valid = root / "raw", root / "valid"
    pictures = map(_picture, range(64))
    samples = [Sample(f"toy-{n:03d}", image, "jpg", caption, {}) for n, (image, caption) in enumerate(pictures)]
    rows = write_shards(raw, "train", [samples[:32], samples[32:]])
    write_manifest(raw, "raw", "toy", {}, {"samples": NUM_PAIRS}, {}, "test")
    accepted = [row["key"] for row in rows[:-1]]
    accept(valid, accepted, "train")
    write_manifest(valid, "valid", "toy", {}, {"accepted": len(accepted)}, {}, "test")
    return raw, valid


@pytest.fixture
def params(tmp_path):
    """Return a function that writes params.yaml with changes (dotted keys) and returns its path."""

    def write(**changes) -> Path:
        data = {section: {} for section in SECTIONS} | copy.deepcopy(PARAMS)
        for dotted, value in changes.items():
            *parents, last = dotted.split(".")
            place = data
            for key in parents:
                place = place[key]
            place[last] = value
        path = tmp_path / "params.yaml"
        with path.open("w") as stream:
            YAML().dump(data, stream)
        return path

    return write


@pytest.fixture
def colour_batch():
    """Sixteen random views with token ids, as the loader makes them."""
    import torch

    random = np.random.default_rng(0)
    text = torch.zeros(16, 16, dtype=torch.int64)
    text[:, 0] = 49406
    text[:, 1] = torch.from_numpy(random.integers(300, 40000, 16))
    text[:, 2] = 49407
    image = torch.from_numpy(random.integers(0, 256, (16, 3, 32, 32)).astype(np.uint8))
    return {
        "image": image,
        "text": text,
        "sample_id": torch.arange(16),
        "seed": torch.arange(16) + 1000,
        "text_cut": torch.zeros(16, dtype=torch.bool),
    }
