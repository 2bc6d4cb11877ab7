"""Which of a pair's text rows a visit sees: a draw from the sample's own seed, blind to rank, worker and order."""

import torch
from torch import Tensor

from training.models.token_select import uniform_from_seeds

_STREAM = 1 << 11
"""Apart from the streams of masks, which are numbers of views, and from those of colours."""


def draw_slots(seed: Tensor, num_slots: int, count: int) -> Tensor:
    """Draw slots without replacement, in random order.

    Args:
        seed: One number per sample and epoch, int64 [B].
        num_slots: R.
        count: K, at most R.

    Returns:
        int64 [B, K]; each slot is among them with probability K / R.
    """
    draws = uniform_from_seeds(seed, num_slots, _STREAM)
    # stable, because two draws can be equal and devices would then disagree
    return torch.argsort(draws, dim=1, stable=True)[:, :count]


def draw_rows(rows: Tensor, seed: Tensor, count: int) -> Tensor:
    """Draw some of each sample's rows.

    Args:
        rows: [B, R, D].
        seed: As for :func:`draw_slots`, [B].
        count: K.

    Returns:
        [B, K, D].
    """
    slots = draw_slots(seed, rows.shape[1], count)
    return rows[torch.arange(len(rows), device=rows.device)[:, None], slots]
