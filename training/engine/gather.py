"""Differentiable gathering of features over ranks; the identity on one process.

Every rank computes the same loss on all G rows. The backward pass sums, over ranks, the gradients that belong to this
rank's rows; data-parallel averaging of parameter gradients by 1/W then gives exactly the gradient of the big batch.
"""

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        ctx.rows = len(features)
        parts = [torch.empty_like(features) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, features.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        gradient = grad_outputs[0].contiguous()
        dist.all_reduce(gradient)
        first = dist.get_rank() * ctx.rows
        return gradient[first : first + ctx.rows]


def gather(features: Tensor) -> Tensor:
    """Concatenate the rows of all ranks in rank order, with gradients.

    Args:
        features: This rank's rows, [B, ...]; the same shape on every rank.

    Returns:
        All rows, [G, ...] with G = W * B; the input itself on one process.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return features
    return cast(Tensor, _AllGather.apply(features))
