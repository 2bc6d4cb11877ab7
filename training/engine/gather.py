"""Differentiable gathering of features over ranks; the identity on one process.

A rank's loss may be its share (the mean over its own rows, against all G) or the whole (the same on every rank). Either
way the backward pass sums, over ranks, the gradients that belong to this rank's rows, and averaging the parameter
gradients over the W ranks gives exactly the gradient of the big batch: 1/W sum_r L_r is the loss of the whole batch.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor


class GatheredFeatures(dict[str, Tensor]):
    """The features of all ranks, [G, ...] each.

    Attributes:
        rows: Which of the G rows are this rank's.
    """

    def __init__(self, features: Mapping[str, Tensor], rows: slice) -> None:
        super().__init__(features)
        self.rows = rows


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        ctx.rows = len(features)
        gathered = features.new_empty(dist.get_world_size() * len(features), *features.shape[1:])
        dist.all_gather_into_tensor(gathered, features.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        gradient = grad_outputs[0].contiguous()
        own = gradient.new_empty(ctx.rows, *gradient.shape[1:])
        dist.reduce_scatter_tensor(own, gradient)
        return own


def gather(features: Mapping[str, Tensor]) -> GatheredFeatures:
    """Concatenate the rows of all ranks in rank order, with gradients; each tensor travels once.

    Args:
        features: This rank's rows, [B, ...] each; the same shapes on every rank.

    Returns:
        All rows, [G, ...] with G = W * B; the tensors themselves on one process.
    """
    rows = len(next(iter(features.values())))
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return GatheredFeatures(features, slice(0, rows))
    first = dist.get_rank() * rows
    gathered = {name: cast(Tensor, _AllGather.apply(value)) for name, value in features.items()}
    return GatheredFeatures(gathered, slice(first, first + rows))
