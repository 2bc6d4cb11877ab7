"""Compare the evaluation's pass over pictures (read, decode, scale, encode) with the forward pass alone.

Run ``python benchmarks/evaluation_speed.py [PROJECT [RUN]]`` in the repository root. PROJECT is a folder whose data set
``emoji`` is made and validated and whose run is trained (default: here, clip-s0). Models: that run, and an untrained
ViT-B/32 at 224 pixels. The forward pass gets prepared batches; both use the same threads; rounds are interleaved, and
what counts is the median of their ratios. Then the whole stage `evaluate` is timed once. Writes
benchmarks/results/evaluation_speed.json.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from record import record
from torch.utils.data import Subset

from assets.config import load_machine
from assets.progress import Stage
from evaluation.encoder import Encoder, load_encoder
from evaluation.features import Batches, Images
from evaluation.samples import dataset_splits, read_dataset, split_pairs
from training.models.build import build_model, export_model

ROUNDS = 5
PICTURES = {"run": 1024, "ViT-B/32": 64}
BATCH = {"run": 64, "ViT-B/32": 8}


def untrained(folder: Path) -> Path:
    """Write a ViT-B/32 with random weights."""
    folder.mkdir()
    vision = {"image_size": 224, "patch_size": 32, "width": 768, "layers": 12}
    text = {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}
    config = {"embed_dim": 512, "vision_cfg": vision, "text_cfg": text}
    torch.manual_seed(0)
    model = build_model(config)
    export_model({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, config, folder)
    return folder


def seconds(action: Callable[[], Any]) -> float:
    """Return the wall time of an action."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def evaluate(project: Path, run: str) -> None:
    """Carry out the whole stage in a process of its own, with every evaluator that params.yaml names."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "evaluation", "evaluate", "--name", run, "--out", f"{folder}/report"]
        subprocess.run(command, cwd=project, env={**os.environ, "PYTHONPATH": sys.path[0]}, check=True)


def measure(encoder: Encoder, images: Subset[torch.Tensor], size: int, workers: int) -> dict[str, float]:
    """Interleave both passes over the same pictures, in batches of one size."""
    batches = Batches(size, workers)
    prepared = list(Batches(size, 0).of(images))
    whole, alone = [], []
    for _ in range(ROUNDS + 1):
        whole.append(seconds(lambda: list(encoder.encode_images(batches.of(images)))))
        alone.append(seconds(lambda: list(encoder.encode_images(prepared))))
    ratios = np.array(alone[1:]) / np.array(whole[1:])  # the first round warms up
    return {
        "pictures": len(images),
        "pass_per_second": round(len(images) / float(np.median(whole[1:])), 1),
        "forward_per_second": round(len(images) / float(np.median(alone[1:])), 1),
        "ratio": round(float(np.median(ratios)), 3),
        "ratio_low": round(float(ratios.min()), 3),
        "ratio_high": round(float(ratios.max()), 3),
    }


def main() -> None:
    project = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    run = sys.argv[2] if len(sys.argv) > 2 else "clip-s0"
    raw, valid, params = project / "data/raw/emoji", project / "data/valid/emoji", project / "params.yaml"
    machine = load_machine(params)
    split = next(facts for facts in dataset_splits(read_dataset(raw), ["zero_shot"], raw) if facts.name == "zero_shot")
    pairs, _ = split_pairs(raw, valid, split, params)
    found: dict[str, Any] = {"workers": machine.workers, "batch": BATCH, "rounds": ROUNDS}
    with Stage("evaluation_speed") as stage, tempfile.TemporaryDirectory() as folder:
        models = {"run": project / "models" / run, "ViT-B/32": untrained(Path(folder) / "vit")}
        for name, model in models.items():
            encoder = load_encoder(model, machine, BATCH[name], stage)
            images = Subset(Images(pairs, encoder.preprocess_array), range(min(PICTURES[name], len(pairs))))
            found[name] = measure(encoder, images, BATCH[name], machine.workers)
    found["evaluate_seconds"] = round(seconds(lambda: evaluate(project, run)), 1)
    record("evaluation_speed", found)


if __name__ == "__main__":
    main()
