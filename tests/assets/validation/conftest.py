import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from assets.atomic import write_json
from assets.config import SECTIONS
from assets.index import INDEX, index_row, rows_table, write_table
from assets.manifest import write_manifest
from assets.shards import ShardWriter
from assets.sources.base import Sample
from assets.validation.config import ValidationConfig

SETTINGS: dict[str, Any] = {
    "image": {"min_side": 16, "max_side": 256, "max_aspect_ratio": 3.0, "min_contrast": 2.0},
    "caption": {"min_words": 2, "max_words": 20, "file_names": False, "generic": ["A photo!"], "max_repeats": 0},
    "duplicates": {"exact": True, "near": True, "evaluation": True, "max_distance": 0.06},
    "limits": {"max_rejected_train": 0.9, "warn_rejected_train": 0.5, "max_rejected_evaluation": 0.9},
}


@pytest.fixture
def settings() -> dict[str, Any]:
    """Settings a test may change in place."""
    return json.loads(json.dumps(SETTINGS))


@pytest.fixture
def config() -> ValidationConfig:
    return ValidationConfig.model_validate(SETTINGS)


def _picture(seed: int, width: int = 48, height: int = 48, kind: str = "jpeg", blank: bool = False) -> bytes:
    """A blocky random picture; equal seeds give equal bytes."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((width, height), Image.Resampling.NEAREST)
    if blank:
        image = Image.new("RGB", (width, height), (90, 90, 90))
    stream = io.BytesIO()
    image.save(stream, kind, quality=95)
    return stream.getvalue()


def _sample(key: str, image: bytes, caption: str = "two small dogs", extension: str = "jpg") -> Sample:
    return Sample(key, image, extension, caption, {"captions": {"en": caption}})


@pytest.fixture
def picture() -> Callable[..., bytes]:
    return _picture


@pytest.fixture
def sample() -> Callable[..., Sample]:
    return _sample


MakeRaw = Callable[..., Path]


@pytest.fixture
def make_raw(tmp_path: Path) -> MakeRaw:
    """Write a raw data folder as ingest does: two samples per shard."""

    def make(
        splits: dict[str, Iterable[Sample]],
        declared: dict[str, int] | None = None,
        listed: dict[str, int] | None = None,
        languages: tuple[str, ...] = ("en",),
    ) -> Path:
        raw = tmp_path / "raw"
        rows: list[dict[str, Any]] = []
        facts: dict[str, Any] = {}
        for split, given in splits.items():
            samples = list(given)
            facts[split] = {
                "role": "train" if split == "train" else "retrieval",
                "samples": (declared or {}).get(split, len(samples)),
                "listed": (listed or {}).get(split, len(samples)),
            }
            for number in range(0, len(samples), 2):
                shard = f"{split}/{number // 2:05d}.tar"
                (raw / shard).parent.mkdir(parents=True, exist_ok=True)
                with (raw / shard).open("wb") as stream:
                    writer = ShardWriter(stream)
                    rows += [index_row(item, split, shard, writer.write(item)) for item in samples[number : number + 2]]
                    writer.close()
        write_table(rows_table(rows), raw / INDEX)
        write_json(raw / "dataset.json", {"name": "toy", "splits": facts, "languages": list(languages), "classes": []})
        write_manifest(raw, "raw", "toy", {}, {"samples": len(rows)}, {}, "code")
        return raw

    return make


@pytest.fixture
def write_params(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    def write(validation: dict[str, Any]) -> Path:
        path = tmp_path / "params.yaml"
        sections: dict[str, Any] = {name: {} for name in SECTIONS}
        machine = {"workers": 0, "threads": 1, "device": "cpu", "tensorboard": False}
        sections |= {"profile": "test", "machine": machine, "datasets": {"toy": {"validation": validation}}}
        path.write_text(json.dumps(sections), encoding="utf-8")
        return path

    return write
