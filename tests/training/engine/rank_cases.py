"""Run under torchrun by test_distributed.py: every rank trains its rows of the same batches, in each of the cases."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional

from assets.config import MachineConfig
from assets.language.lexicon import Lexicon
from assets.progress import Stage
from assets.section import parse
from assets.text_rows import TextFacts
from training.config import RecipeConfig
from training.data.objects import MOST_OBJECTS
from training.data.transforms import CropDraw, SampleDraws, draw_views, side_of
from training.engine.checkpoint import Checkpoints, TrainState
from training.engine.clock import TrainClock
from training.engine.distributed import World, world
from training.engine.episode import EmbedSettings, Episodes
from training.engine.flops import FlopsProbe
from training.engine.step import Stepper
from training.methods.base import Method
from training.methods.exchange import Needs
from training.models.build import build_method, resolve_method
from training.teachers.source import TEACHER_FEATURES, TeacherSource

STEPS = 3
BATCH = 16
SOURCE = (90, 70)  # width and height of the pictures that the boxes are of
SLOTS = (("raw", "overall"), ("long", "overall"), ("long", "object"))
WIDTH = 24
NUM_WORDS = 20
TEACHER = TeacherSource(widths=(10,), logit_scales=(50.0,))


def text_facts(center: bool = False) -> TextFacts:
    """Facts of the frozen text in the batches below."""
    means = np.random.default_rng(5).normal(0, 0.1, (len(SLOTS), WIDTH)).astype(np.float32) if center else None
    return TextFacts(SLOTS, tuple(range(len(SLOTS))), WIDTH, center, means, {"kind": "facets"}, lexicon())


def lexicon() -> Lexicon:
    """Words of the frozen text in the batches below."""
    words = tuple(f"word{place}" for place in range(NUM_WORDS))
    codebook = np.random.default_rng(6).normal(size=(NUM_WORDS, WIDTH)).astype(np.float32)
    facts = {"model": "toy", "model_digest": "toy", "prompt": "toy"}
    return Lexicon(words, tuple(range(NUM_WORDS)), codebook, 3.0, (1,) * NUM_WORDS, facts)


def global_batch(step: int) -> dict[str, torch.Tensor]:
    """Make the batch of a step, the same on every rank."""
    random = torch.Generator().manual_seed(step)
    text = torch.zeros(BATCH, 16, dtype=torch.int64)
    text[:, 0], text[:, 3] = 49406, 49407
    text[:, 1:3] = torch.randint(300, 40000, (BATCH, 2), generator=random)
    image = torch.randint(0, 256, (BATCH, 3, 32, 32), generator=random).to(torch.uint8)
    sample = torch.arange(BATCH)
    batch = {"image": image, "text": text, "sample_id": sample, "seed": sample + 100 * step, "text_cut": sample < 1}
    text_rows = torch.randn(BATCH, len(SLOTS), WIDTH, generator=random)
    told = {name: torch.randn(BATCH, sum(TEACHER.widths), generator=random) for name in TEACHER_FEATURES}
    rows = {"text_rows": text_rows, **told}
    return {**batch, **{name: functional.normalize(values, dim=-1) for name, values in rows.items()}}


def with_views(batch: dict[str, torch.Tensor], needs: Needs, seed: int = 0) -> dict[str, torch.Tensor]:
    """Add random pixels for the views that a method wants beside ``image``, with boxes and objects."""
    rows, size = len(batch["image"]), batch["image"].shape[-1]
    random = np.random.default_rng(seed)
    result = dict(batch)
    for name, view in needs.views.items():
        if name != "image":
            side = side_of(view, size)
            result[name] = torch.from_numpy(random.integers(0, 256, (rows, 3, side, side)).astype(np.uint8))
    if needs.boxes:
        crops = [draw_views(needs.views, *SOURCE, SampleDraws(seed, 0, str(row))) for row in range(rows)]
        for name in needs.views:
            result[f"{name}_box"] = boxes_of([crop[name] for crop in crops])
    if needs.objects:
        objects = torch.zeros(rows, MOST_OBJECTS, 4, dtype=torch.int64)
        objects[:, 0] = torch.from_numpy(random.integers(1, 50, (rows, 4)))
        result["objects"] = objects
    return result


def boxes_of(crops: list[CropDraw]) -> torch.Tensor:
    """Return crops as the loader puts them into a batch, [B, 5]."""
    return torch.tensor([[int(value) for value in crop.box] for crop in crops])


def episodes_of(method: Method, machine: MachineConfig, here: World) -> Episodes:
    """Let a method with episodes embed this rank's rows of the batches to come, in other views, beside a teacher's."""
    rows = BATCH // here.size

    def source(first: int, last: int):
        for step in range(first, last):
            batch = global_batch(step)
            batch["image"] = 255 - batch["image"]
            batch["features"] = torch.randn(BATCH, 6, generator=torch.Generator().manual_seed(step))
            yield {name: value[here.rank * rows :][:rows] for name, value in batch.items()}

    return Episodes(method, FlopsProbe(method), EmbedSettings(0, machine.micro_batch, bf16=False), here, source)


def train(recipe: RecipeConfig, machine: MachineConfig, here: World, checkpoints: Path) -> dict[str, list[Any]]:
    """Train, save, load into a fresh stepper and train on; write the weights and return the curves."""
    losses: list[float] = []
    norms: list[float] = []
    watched: list[dict[str, float]] = []
    rows = BATCH // here.size
    store = Checkpoints(checkpoints, keep=1)
    clock = TrainClock({}, here.device)
    for first in (0, STEPS):
        teacher = TEACHER if resolve_method(recipe)[0].learns_from_teacher else None
        method = build_method(recipe, 0, None if recipe.frozen_text is None else text_facts(), teacher=teacher)[0]
        episodes = episodes_of(method, machine, here)
        stepper = Stepper(method, recipe, machine, here, 0)
        state = TrainState(stepper.method, stepper.optimizer, stepper.average)
        if here.size > 1:
            torch.distributed.barrier()
        assert store.load(state) == first
        for step in range(first, first + STEPS):
            whole = with_views(global_batch(step), stepper.method.needs(), step)
            if "objects" in whole:
                whole["objects"][:3] = 0  # so that not all ranks have as many rows with objects
            batch = {name: value[here.rank * rows :][:rows] for name, value in whole.items()}
            episodes.begin(step, clock, Stage("rank_cases", quiet=True), lambda: False)
            values = stepper.step(batch, step, clock).values
            losses.append(values["loss"])
            norms.append(values["grad_norm"])
            watched.append(stepper.watch(batch, clock))
        files = state.snapshot()
        if here.is_main:
            store.save(files, {"step": first + STEPS})
            store.wait()
    if here.is_main:
        save_file({**files["method"], **files.get("average", {})}, checkpoints / "final.safetensors")
    return {"losses": losses, "norms": norms, "watched": watched}


def main(file: Path) -> None:
    """Run every case of a JSON file: name -> {recipe, machine}."""
    cases = json.loads(file.read_text())
    curves = {}
    threads = parse(MachineConfig, next(iter(cases.values()))["machine"], "machine")
    with world(threads) as here:
        for name, case in cases.items():
            recipe, machine = (
                parse(RecipeConfig, case["recipe"], "recipe"),
                parse(MachineConfig, case["machine"], "machine"),
            )
            curves[name] = train(recipe, machine, here, file.parent / name)
        if here.is_main:
            (file.parent / "curves.json").write_text(json.dumps(curves))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
