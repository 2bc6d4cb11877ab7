"""Measure what methods cost: optimiser steps of each on the same towers, batch and data, against each other.

Run ``python benchmarks/methods.py`` in the repository root; it writes benchmarks/results/methods.json. A round takes
one step of every method, so that what else the machine does hits all alike; figures are medians over rounds, and a
ratio is the median of the rounds' own ratios. CPU time is the figure to compare on a busy machine. A step is all of it,
from pixels to changed weights, the changes of colour included; reading, decoding and cropping are not. The image tower
is small, but dominates the step as a big one does. Three settings: 64 patches, the towers of the profile demo; 196, as
ViT-B/16 has at 224 pixels, where our attention is fused and the published code's was not; and 784, where attention
itself costs, so that dropping tokens pays what the published speed-ups say.

FLAME trains on long captions without a text tower, so what it saves is that of ``clip_text``: CLIP with a text tower as
wide and deep as the image tower, on captions that fill its context of 77 tokens. ``clip`` itself has next to no text.
"""

import itertools
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from record import record
from torch.nn import functional

from assets.config import MachineConfig
from assets.progress import Stage
from assets.section import parse
from assets.text_rows import TextFacts
from training.config import RecipeConfig
from training.data.loader import Batch
from training.data.transforms import SampleDraws, draw_views, side_of
from training.engine.clock import TrainClock
from training.engine.distributed import World
from training.engine.episode import EmbedSettings, Episodes, SnapshotSource
from training.engine.flops import FlopsProbe
from training.engine.step import Stepper
from training.methods.exchange import Needs
from training.models.build import build_method

ROUNDS = 5
SETTINGS = {
    "patches_64": {"image_size": 64, "patch_size": 8, "width": 192, "layers": 6, "batch": 32},
    "patches_196": {"image_size": 112, "patch_size": 8, "width": 256, "layers": 6, "batch": 16},
    "patches_784": {"image_size": 224, "patch_size": 8, "width": 192, "layers": 4, "batch": 8},
}
HEADS = {"head_width": 512, "head_out": 128}
ATTENTIVE = {"kind": "attentive", "keep": 0.5, "block": 2}
COLOUR = {"crop_area": [0.5, 1.0], "colour": {}}
FROZEN = {"kind": "frozen", "center": False}
# as SmolLM2-135M gives them for three captions of a picture
TEXT = TextFacts(tuple(("caption", str(number)) for number in range(11)), tuple(range(11)), width=576)
# what each case changes of the plain recipe; a new method is a line here
CASES: dict[str, dict[str, Any]] = {
    "clip": {},
    "clip_text": {"text": {"context_length": 77}},
    "flame": {"method": {"kind": "flame", "loss": "softmax"}, "text": FROZEN},
    "flame_pooled": {"method": {"kind": "flame", "loss": "softmax"}, "text": FROZEN, "head": {"kind": "pooled"}},
    "slip": {"method": {"kind": "slip", **HEADS}},
    "random_mask": {"method": {"kind": "random_mask"}, "masking": {"kind": "random", "keep": 0.5}},
    "aclip": {"method": {"kind": "aclip", **HEADS}, "views": COLOUR, "masking": ATTENTIVE, "ema_tower": {}},
    "aclip_eff": {
        "method": {"kind": "aclip", **HEADS},
        "views": COLOUR,
        "masking": ATTENTIVE,
        "ema_tower": {"shrink": 2},
    },
    # every step has its share of an episode's embedding and clustering
    "protoclip": {
        "method": {
            "kind": "protoclip",
            "episode_pairs": 32,
            "clusters": 4,
            "warmup_episodes": 0,
            "kmeans": {"iterations": 10, "restarts": 1},
            **HEADS,
        }
    },
}
# case -> (what it is compared with, least ratio of samples per second): the published ones
BARS = {
    "aclip": ("slip", 2.3),
    "aclip_eff": ("clip", 1.16),
    "protoclip": ("clip", 1 / 1.4),
    "flame": ("clip_text", 1.3),
}


def recipe_of(setting: dict[str, int], changes: dict[str, Any]) -> RecipeConfig:
    plain = {
        "method": {"kind": "clip"},
        "towers": towers_of(setting, changes.get("text", {}), changes.get("head")),
        "views": {"crop_area": [0.5, 1.0]},
        "budget": {"samples_seen": 100 * setting["batch"], "batch_size": setting["batch"]},
        "optim": {
            "lr": 1e-3,
            "weight_decay": 0.1,
            "beta1": 0.9,
            "beta2": 0.98,
            "eps": 1e-6,
            "warmup_steps": 10,
            "gradient_clip": 1.0,
        },
        "precision": "fp32",
        "log_every": 1,
        "checkpoint_every": 100,
    }
    return parse(RecipeConfig, plain | {key: changes[key] for key in changes.keys() - {"text", "head"}}, "recipe")


def towers_of(setting: dict[str, int], text: dict[str, Any], head: dict[str, Any] | None) -> dict[str, Any]:
    """The towers of a setting: next to no text tower, one like the image tower for a whole context, or none."""
    vision = {"kind": "vit", **{key: setting[key] for key in ("layers", "width", "patch_size")}}
    towers = {"kind": "custom", "image_size": setting["image_size"], "vision": vision}
    if text == FROZEN:
        return {**towers, "text": text, "head": head}
    like_image = {"width": setting["width"], "heads": setting["width"] // 64, "layers": setting["layers"]}
    small = {"context_length": 16, "width": 128, "heads": 2, "layers": 1}
    return {**towers, "embed_dim": 128, "text": small | (like_image | text if text else {})}


def batch_of(needs: Needs, setting: dict[str, int], tokens: int) -> Batch:
    """Random pixels and texts with everything that a method may want of the loader."""
    random, rows, size = np.random.default_rng(0), setting["batch"], setting["image_size"]
    text = np.zeros((rows, tokens), dtype=np.int64)
    text[:, 0], text[:, -1] = 49406, 49407
    text[:, 1:-1] = random.integers(300, 40000, (rows, tokens - 2))
    batch = {"text": torch.from_numpy(text), "text_cut": torch.zeros(rows, dtype=torch.bool)}
    batch["text_rows"] = functional.normalize(torch.randn(rows, len(TEXT.slots), TEXT.width), dim=-1)
    batch |= {"sample_id": torch.arange(rows), "seed": torch.arange(rows)}
    crops = [draw_views(needs.views, 256, 256, SampleDraws(0, 0, str(row))) for row in range(rows)]
    for name, view in needs.views.items():
        side = side_of(view, size)
        batch[name] = torch.from_numpy(random.integers(0, 256, (rows, 3, side, side)).astype(np.uint8))
        batch[f"{name}_box"] = torch.tensor([[int(value) for value in crop[name].box] for crop in crops])
    return batch


_QUIET = Stage("benchmark", quiet=True)


class Case:
    """A method ready to step, and the seconds that its steps took."""

    def __init__(self, setting: dict[str, int], changes: dict[str, Any]) -> None:
        recipe = recipe_of(setting, changes)
        method, _ = build_method(recipe, 0, TEXT if recipe.frozen_text else None)
        self.batch = batch_of(method.needs(), setting, changes.get("text", {}).get("context_length", 16))
        probe = FlopsProbe(method)
        self.flops = probe.count(self.batch)
        if method.episode_steps:
            self.flops += probe.count_snapshot(self.batch)
        machine = MachineConfig(workers=0, threads=0, device="cpu", tensorboard=False)
        world = World(0, 1, torch.device("cpu"))
        self.stepper = Stepper(method, recipe, machine, world, 0)
        settings = EmbedSettings(seed=0, rows=0, bf16=False)
        snapshots: SnapshotSource = lambda first, last: iter([self.batch] * (last - first))  # noqa: E731
        self.episodes = Episodes(method, probe, settings, world, snapshots)
        self.clock = TrainClock({}, torch.device("cpu"))
        self.share = (0.0, 0.0)
        self.seconds: list[tuple[float, float]] = []

    def run(self, number: int) -> None:
        """Take one step; the first one allocates and does not count, but for what comes before an episode."""
        steps = self.stepper.method.episode_steps
        if steps and number % steps == 0:
            wall, cpu = time.perf_counter(), time.process_time()
            self.episodes.begin(number, self.clock, _QUIET, lambda: False)
            self.share = (time.perf_counter() - wall) / steps, (time.process_time() - cpu) / steps
        wall, cpu = time.perf_counter(), time.process_time()
        self.stepper.step(self.batch, number, self.clock)
        if number:
            step = time.perf_counter() - wall, time.process_time() - cpu
            self.seconds.append((step[0] + self.share[0], step[1] + self.share[1]))


def ratio(one: Case, other: Case, column: int) -> float:
    """Return how many times more samples per second ``one`` sees than ``other``: the median of the rounds."""
    rounds = zip(one.seconds, other.seconds, strict=True)
    return round(statistics.median(theirs[column] / own[column] for own, theirs in rounds), 2)


def measure(setting: dict[str, int]) -> dict[str, Any]:
    torch.manual_seed(0)
    cases = {name: Case(setting, changes) for name, changes in CASES.items()}
    for number, case in itertools.product(range(ROUNDS + 1), cases.values()):
        case.run(number)
    result: dict[str, Any] = {"setting": setting}
    for name, case in cases.items():
        result[name] = {"gflops_per_sample": round(case.flops / 1e9, 2)}
        for column, clock in enumerate(("wall", "cpu")):
            median = statistics.median(row[column] for row in case.seconds)
            result[name][f"samples_per_{clock}_second"] = round(setting["batch"] / median, 2)
            result[name][f"{clock}_speed_against_clip"] = ratio(case, cases["clip"], column)
    result["bars"] = {
        name: {
            "against": other,
            "wanted": wanted,
            "cpu": ratio(cases[name], cases[other], 1),
            "wall": ratio(cases[name], cases[other], 0),
        }
        for name, (other, wanted) in BARS.items()
    }
    return result


def main() -> None:
    begin = time.perf_counter()
    result: dict[str, Any] = {"threads": torch.get_num_threads(), "rounds": ROUNDS}
    result |= {name: measure(setting) for name, setting in SETTINGS.items()}
    result["seconds"] = round(time.perf_counter() - begin)
    record("methods", result)


if __name__ == "__main__":
    main()
