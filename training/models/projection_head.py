"""ProtoCLIP's projection heads: linear layers with batch norm whose statistics outlast training steps.

As the heads of ``models/heads.py`` they belong into ``losses``, on the features of all ranks. Unlike those they are
also used between steps, on a snapshot of the data, and then need running statistics.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.models.heads import GatheredBatchNorm

_MOMENTUM = 0.1


class RunningBatchNorm(GatheredBatchNorm):
    """Batch norm of gathered features that in evaluation uses statistics averaged over the training steps."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__(width, eps)
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each column of [G, W]; in training by its own statistics, which move the running ones."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, _MOMENTUM, self.eps
        )


def projection_head(width: int, hidden: int, out: int, layers: int) -> nn.Sequential:
    """Build a head with so many hidden layers; without any it is one linear layer.

    Args:
        width: Of the features, D.
        hidden: Of the hidden layers.
        out: Of the result.
        layers: Hidden layers, each with batch norm.

    Returns:
        [G, D] -> [G, out].
    """
    stack: list[nn.Module] = []
    for _ in range(layers):
        stack += [nn.Linear(width, hidden), RunningBatchNorm(hidden), nn.ReLU()]
        width = hidden
    return nn.Sequential(*stack, nn.Linear(width, out))
