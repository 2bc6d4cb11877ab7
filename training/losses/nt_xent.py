"""NT-Xent, the contrastive loss between two views of SimCLR (Chen et al. 2020, arXiv 2002.05709), as SLIP uses it."""

import torch
from torch import Tensor
from torch.nn import functional

from training.losses.info_nce import ALL_ROWS, at_least_float32


def nt_xent_loss(first: Tensor, second: Tensor, temperature: float, rows: slice = ALL_ROWS) -> Tensor:
    """Mean cross-entropy of picking an image's other view among both views of all images, itself left out.

    With a and c the two views' unit vectors, averaged over i in ``rows`` and over swapping a and c:
    loss_i = -log e^(a_i.c_i/t) / (sum_j e^(a_i.c_j/t) + sum_(j != i) e^(a_i.a_j/t)).

    Args:
        first: Unit norm, [G, K].
        second: Unit norm, [G, K]; row i is of the same image as row i of ``first``.
        temperature: t.
        rows: The B images to average over; each still competes with all 2 G views.

    Returns:
        Scalar in nats; log(2 G - 1) when all vectors are equal.
    """
    labels = torch.arange(len(first), device=first.device)[rows]
    itself = labels[:, None] == torch.arange(len(first), device=first.device)  # [B, G]
    losses: list[Tensor] = []
    for own, other in ((first, second), (second, first)):
        across = own[rows] @ other.T / temperature  # [B, G]
        within = (own[rows] @ own.T / temperature).masked_fill(itself, float("-inf"))  # [B, G]
        losses.append(functional.cross_entropy(at_least_float32(torch.cat([across, within], dim=1)), labels))
    return (losses[0] + losses[1]) / 2
