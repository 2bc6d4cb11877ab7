"""Floating-point operations of one training step, counted from the operators that really run."""

import copy

import torch
from torch.utils.flop_counter import FlopCounterMode

from training.data.loader import Batch
from training.methods.base import Method


def flops_per_sample(method: Method, batch: Batch) -> float:
    """Count forward and backward multiply-adds (as two operations each) of one step, per sample.

    Args:
        method: Left untouched; a copy runs.
        batch: A real batch; at most 16 of its rows are used.

    Returns:
        Operations per sample of a batch; the loss's own quadratic part is that of the small batch and negligible.
    """
    rows = min(16, len(batch["image"]))
    part: Batch = {"image": batch["image"][:rows], "text": batch["text"][:rows], "sample_id": batch["sample_id"][:rows]}
    generator_state = torch.get_rng_state()
    probe = copy.deepcopy(method)
    with FlopCounterMode(display=False) as counter:
        output = probe.encode(part)
        sum(probe.losses(output, 0).losses.values(), torch.zeros((), device=part["image"].device)).backward()
    torch.set_rng_state(generator_state)
    return counter.get_total_flops() / rows
