"""Stage ``export``: a model as ONNX, verified against PyTorch, with its parameters, operations and latency on a CPU."""

import copy
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from assets.atomic import atomic_folder, write_json
from assets.code_stamp import code_digest
from assets.config import load_machine
from assets.manifest import read_manifest, version_of, write_manifest
from assets.progress import Progress, Stage
from evaluation.export_config import ExportConfig
from evaluation.latency import ENGINES, interleaved, machine_facts, num_threads, torch_threads, tower_calls
from evaluation.onnx_export import LIMIT, VERIFIED_BATCHES, Tower, Towers, load_towers, verify, write_tower

KIND = "export"
REPORT = "report.json"
_SIDES = ("image", "text")
_PACKAGES = ("torch", "onnx", "onnxruntime", "onnxscript", "open_clip_torch")
_TOKEN_EMBEDDINGS = ("token_embedding.weight", "word_embeddings.weight")
"""How open_clip's own text towers, and those of transformers, call the vectors of their vocabulary."""


def export(name: str, config: ExportConfig, params: Path, model: Path, out: Path) -> None:
    """Export one model and publish the folder.

    Args:
        name: Of the entry in params.yaml.
        config: The entry.
        params: The params.yaml; section ``machine``.
        model: The model folder, from ``pretrain``.
        out: The folder to publish: image.onnx, text.onnx unless text is frozen, preprocess.json, report.json.

    Raises:
        DataError: The model is missing, unfinished or does not load; or an ONNX file computes something else.
    """
    threads = num_threads(load_machine(params).threads)
    read_manifest(model, "model")
    inputs = {"model": version_of(model)}
    with Stage(f"export@{name}") as stage:
        towers = load_towers(model)
        with torch_threads(threads), atomic_folder(out) as folder:
            report = _write(towers, folder, config, threads, stage)
            write_json(folder / "preprocess.json", towers.preprocess)
            write_json(folder / REPORT, {"run": config.run, **report})
            counts = {"parameters": report["parameters"]["total"]}
            plain = config.model_dump(mode="json")
            write_manifest(folder, KIND, name, plain, counts, inputs, code_digest("evaluation.export"))
        stage.log.info("%s: %s in %s", stage.name, ", ".join(f"{side}.onnx" for side in towers.sides), out)
        stage.send({"parameters": counts["parameters"]}, force=True)


def _write(towers: Towers, folder: Path, config: ExportConfig, threads: int, stage: Stage) -> dict[str, Any]:
    """Write and verify the ONNX files; return the report."""
    differences: dict[str, float | None] = dict.fromkeys(_SIDES)
    for side, tower in towers.sides.items():
        stage.log.info("%s: writing %s.onnx", stage.name, side)
        write_tower(tower, folder / f"{side}.onnx")
        differences[side] = verify(tower, folder / f"{side}.onnx", threads)
    before = machine_facts(threads)
    with stage.progress("measure", len(towers.sides) * len(config.batch_sizes), "batch size") as progress:
        latency = measure(towers.sides, folder, config, threads, progress)
    return {
        "parameters": count_parameters(towers.model, towers.text is not None),
        "flops": {side: count_flops(towers.sides[side]) if side in towers.sides else None for side in _SIDES},
        "verification": {"largest_difference": differences, "limit": LIMIT, "inputs": sum(VERIFIED_BATCHES)},
        "latency": latency,
        "machine": before,
        "packages": {package: version(package) for package in _PACKAGES},
    }


def measure(
    sides: Mapping[str, Tower], folder: Path, config: ExportConfig, threads: int, progress: Progress
) -> dict[str, dict[str, dict[str, Any] | None]]:
    """Measure the latency of both engines.

    Args:
        sides: The towers by side.
        folder: Has their ONNX files.
        config: Batch sizes and runs.
        threads: Of onnxruntime.
        progress: Told of each tower and batch size.

    Returns:
        Engine -> side -> batch size as text -> timing; None for a side that is not there.
    """
    latency: dict[str, dict[str, dict[str, Any] | None]] = {
        engine: {side: {} if side in sides else None for side in _SIDES} for engine in ENGINES
    }
    for side, tower in sides.items():
        for batch_size in config.batch_sizes:
            calls = tower_calls(tower, folder / f"{side}.onnx", batch_size, threads)
            for engine, timing in interleaved(calls, config.runs).items():
                cells = latency[engine][side]
                assert cells is not None
                cells[str(batch_size)] = asdict(timing)
            progress.advance()
    return latency


def count_parameters(model: nn.Module, has_text: bool) -> dict[str, int | None]:
    """Count a model's parameters by where they are.

    Args:
        model: In memory.
        has_text: Whether it has a text tower.

    Returns:
        ``image``, ``text`` without its token embedding, ``token_embedding``, and the ``total``, which has scale and
        bias too. Text and token embedding are None without a text tower.
    """
    counts = dict.fromkeys(("image", "text", "token_embedding", "scale"), 0)
    for name, parameter in model.named_parameters():
        if name in ("logit_scale", "logit_bias"):
            part = "scale"
        elif name.endswith(_TOKEN_EMBEDDINGS):
            part = "token_embedding"
        else:
            part = "text" if has_text and not name.startswith("visual.") else "image"
        counts[part] += parameter.numel()
    text = {part: counts[part] if has_text else None for part in ("text", "token_embedding")}
    return {"image": counts["image"], **text, "total": sum(counts.values())}


def count_flops(tower: Tower) -> int:
    """Count the multiply-adds, as two operations each, of one input's pass.

    Args:
        tower: The side; left as it is.
    """
    # shapes only, which also keeps away from the fused layers of inference, whose operations are not counted
    shapes = copy.deepcopy(tower).to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shapes(tower.random_inputs(1, seed=0).to("meta"))
    return int(counter.get_total_flops())
