"""The published case: three steps of the reference loop on random features, all parameters before and after."""

import json
from pathlib import Path

import numpy as np
import torch

from evaluation.tuning.config import PRESETS, FitConfig, HeadConfig
from evaluation.tuning.fit import Arm, Batch
from evaluation.tuning.head import ResidualHead

CASE = dict(np.load(Path("tests/fixtures/nmtune/case_a.npz")))
SETTING = json.loads(str(CASE["cfg_json"]))
STEPS = SETTING["T"]
SHAPE = HeadConfig(hidden_layers=1, ratio=4, residual_scale=1.0, bias_before_norm=True, unit_rms=False)
ARM = Arm(SHAPE, FitConfig(epochs=STEPS, batch_size=SETTING["B"], weight_decay=1e-4), 1e-3, PRESETS["code"])


def our_name(name: str) -> str:
    return name.replace("scale_after", "residual_scale").replace("head.", "classifier.")


def published(prefix: str) -> dict[str, torch.Tensor]:
    """Our name -> what the fixture has below a prefix."""
    return {our_name(name.removeprefix(f"{prefix}/")): tensor(name) for name in CASE if name.startswith(f"{prefix}/")}


def tensor(name: str) -> torch.Tensor:
    return torch.from_numpy(np.asarray(CASE[name]))


def published_head() -> ResidualHead:
    head = ResidualHead(SETTING["D"], SETTING["C"], SHAPE, torch.Generator().manual_seed(0)).double()
    head.load_state_dict({**head.state_dict(), **published("init")})
    return head


def published_batches() -> list[Batch]:
    return [Batch(*parts) for parts in zip(tensor("feats_w"), tensor("feats_s"), tensor("labels"), strict=True)]
