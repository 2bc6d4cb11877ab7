"""Projection heads of self-supervised losses: SimCLR's three layers, and BYOL's two for projector and predictor.

They belong into ``losses``, on the features of all ranks: their batch norm then sees the global batch on every rank, so
neither the number of processes nor two-pass accumulation changes a number. Every rank computes the heads of all rows:
for a ViT-B/16 and a global batch of 4096, by multiply-adds, a tenth more work per rank on 64 ranks, a hundredth on 8.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class GatheredBatchNorm(nn.Module):
    """Batch norm with the statistics of the rows it is given, in float32; for gathered features, in training only.

    It keeps no running statistics, because heads are thrown away after training. It is no ``nn.BatchNorm1d`` because
    the engine synchronises those between ranks, which these rows have behind them already.
    """

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each column of [G, W]."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return functional.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)


def simclr_head(width: int, hidden: int, out: int) -> nn.Sequential:
    """Build the head of SimCLR as SLIP has it: three layers, the first two with batch norm.

    In front of batch norm, which takes any constant out again, the layers have no bias; the published ones do.

    Args:
        width: Of the features, W.
        hidden: Of both hidden layers.
        out: Of the result.

    Returns:
        [G, W] -> [G, out].
    """
    return nn.Sequential(
        nn.Linear(width, hidden, bias=False),
        GatheredBatchNorm(hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden, bias=False),
        GatheredBatchNorm(hidden),
        nn.ReLU(),
        nn.Linear(hidden, out),
    )


def byol_head(width: int, hidden: int, out: int) -> nn.Sequential:
    """Build a projector or predictor of BYOL: two layers without bias, batch norm between them.

    Args:
        width: Of the features.
        hidden: Of the hidden layer.
        out: Of the result.

    Returns:
        [G, W] -> [G, out].
    """
    return nn.Sequential(
        nn.Linear(width, hidden, bias=False),
        GatheredBatchNorm(hidden),
        nn.ReLU(),
        nn.Linear(hidden, out, bias=False),
    )
