"""Floating-point operations of one training step, counted from the operators that really run."""

import copy

from torch.utils.flop_counter import FlopCounterMode

from training.data.loader import Batch
from training.engine.accumulate import total_loss
from training.engine.gather import GatheredFeatures
from training.methods.base import Method

_ROWS = 16


def flops_per_sample(method: Method, batch: Batch) -> float:
    """Count forward and backward multiply-adds (as two operations each) of one step, per sample.

    The step runs on the meta device: shapes only, in no time and no memory.

    Args:
        method: Left untouched; a copy without data runs.
        batch: A real batch; at most 16 of its rows are used.

    Returns:
        Operations per sample of a batch; the loss's own quadratic part is that of the small batch and negligible.
    """
    part = {name: value[:_ROWS].to("meta") for name, value in batch.items()}
    rows = len(part["image"])
    probe = copy.deepcopy(method).to("meta")
    with FlopCounterMode(display=False) as counter:
        features = GatheredFeatures(probe.encode(part), slice(0, rows))
        total_loss(probe.losses(features, 0)).backward()
    return counter.get_total_flops() / rows
