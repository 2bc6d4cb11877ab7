"""Compare the latency of exported models on this machine: all of them in turn within each round, both engines.

Run ``python benchmarks/latency.py models/A models/B ...`` in the repository root; it prints medians in milliseconds
with their ratio to the first model, and writes benchmarks/results/latency.json. One thread per core; without folders
it measures untrained models of two sizes.
"""

import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from record import record

from evaluation.export import count_flops, count_parameters
from evaluation.latency import ENGINES, Call, Timing, interleaved, num_threads, torch_threads, tower_calls
from evaluation.onnx_export import Towers, load_towers, verify, write_tower
from training.models.build import build_model, export_model

BATCH_SIZES = (1, 64)
RUNS = 30
SIZES = {"width-192": 192, "width-96": 96}


def untrained(folder: Path) -> list[Path]:
    """Write a model of each size."""
    folders: list[Path] = []
    for name, width in SIZES.items():
        (folder / name).mkdir()
        vision = {"image_size": 64, "patch_size": 8, "width": width, "layers": 6, "head_width": 32}
        text = {"context_length": 32, "vocab_size": 49408, "width": width, "heads": width // 32, "layers": 6}
        config = {"embed_dim": 128, "vision_cfg": vision, "text_cfg": text}
        torch.manual_seed(0)
        model = build_model(config)
        tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
        export_model(tensors, config, folder / name)
        folders.append(folder / name)
    return folders


def compared(models: dict[str, Towers], files: Path, side: str, batch_size: int, threads: int) -> dict[str, Any]:
    """Measure one side of all models that have it, at one batch size."""
    calls: dict[str, Call] = {}
    for name, towers in models.items():
        if side in towers.sides:
            own = tower_calls(towers.sides[side], files / f"{name}-{side}.onnx", batch_size, threads)
            calls |= {f"{name} {engine}": call for engine, call in own.items()}
    timings = interleaved(calls, RUNS)
    found: dict[str, Any] = {}
    for engine in ENGINES:
        own = {name: timings[f"{name} {engine}"] for name in models if f"{name} {engine}" in timings}
        first = next(iter(own.values())).median_ms
        found[engine] = {name: row(side, batch_size, engine, name, timing, first) for name, timing in own.items()}
    return found


def row(side: str, batch_size: int, engine: str, name: str, timing: Timing, first: float) -> dict[str, Any]:
    """Print and return one line of the table."""
    ratio = round(timing.median_ms / first, 3)
    quartiles = f"{timing.lower_quartile_ms:9.3f} to {timing.upper_quartile_ms:9.3f}"
    print(f"{side:6} {batch_size:4} {engine:12} {name:24} {timing.median_ms:9.3f} ms ({quartiles}) {ratio:7.3f}")
    return {**asdict(timing), "ratio": ratio}


def main() -> None:
    threads = num_threads(0)
    with tempfile.TemporaryDirectory() as temporary, torch_threads(threads):
        files = Path(temporary)
        folders = [Path(argument) for argument in sys.argv[1:]] or untrained(files)
        models = {folder.name: load_towers(folder) for folder in folders}
        if len(models) < len(folders):
            sys.exit("error: two folders have the same name; rename one")
        for name, towers in models.items():
            for side, tower in towers.sides.items():
                write_tower(tower, files / f"{name}-{side}.onnx")
                verify(tower, files / f"{name}-{side}.onnx", threads)
        result: dict[str, Any] = {
            "threads": threads,
            "models": {
                name: {
                    "parameters": count_parameters(towers.model, towers.text is not None),
                    "flops": {side: count_flops(tower) for side, tower in towers.sides.items()},
                }
                for name, towers in models.items()
            },
        }
        for side in ("image", "text"):
            if any(side in towers.sides for towers in models.values()):
                result[side] = {str(size): compared(models, files, side, size, threads) for size in BATCH_SIZES}
    record("latency", result)


if __name__ == "__main__":
    main()
