"""A captioner small enough for the toy discs."""

import copy
from typing import Any

import pytest

from assets.config import MachineConfig
from training.captioner.config import CaptionerConfig

ENTRY: dict[str, Any] = {
    "dataset": "toy",
    "run": "none",
    "seed": 0,
    "image_size": 32,
    "vision": {"kind": "vit", "layers": 1, "width": 32, "patch_size": 8, "head_width": 16},
    "codebook": {"size": 24, "width": 16, "revive_every": 5},
    "decoder": {"context_length": 12, "width": 32, "heads": 2, "layers": 1},
    "views": {"crop_area": [0.8, 1.0]},
    "budget": {"samples_seen": 192, "batch_size": 16},
    "optim": {
        "lr": 3e-3,
        "weight_decay": 0.05,
        "beta1": 0.9,
        "beta2": 0.98,
        "eps": 1e-6,
        "warmup_steps": 2,
        "gradient_clip": 1.0,
    },
    "holdout": {"pairs": 8, "every": 4},
    "log_every": 1,
    "checkpoint_every": 3,
    "describe": {"batch_size": 20, "beams": 2, "min_tokens": 1, "max_tokens": 10},
}
MACHINE = MachineConfig(workers=0, threads=1, device="cpu", tensorboard=False)


@pytest.fixture
def captioner():
    """Return a function that makes the toy entry with changes (dotted keys)."""

    def make(**changes) -> CaptionerConfig:
        data = copy.deepcopy(ENTRY)
        for dotted, value in changes.items():
            *parents, last = dotted.split(".")
            place = data
            for key in parents:
                place = place[key]
            place[last] = value
        return CaptionerConfig.model_validate(data, strict=False)

    return make
