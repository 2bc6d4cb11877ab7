"""The codebook: image tokens in, the nearest codes out, and how the codes follow the tokens.

A token of width D = S d is cut into S parts that share one codebook E [K, d]. Codes learn by the gradient of
:func:`training.losses.vq.vq_loss`, or as moving averages of the tokens that chose them:

    N_k <- g N_k + (1 - g) n_k,  M_k <- g M_k + (1 - g) sum z,  e_k <- M_k / N~_k,
    N~_k = (N_k + eps) / (sum N + K eps) sum N

with n_k tokens of all ranks on code k. N starts at 1 and M at E, so that the first steps do not blow codes up. Codes
that nothing has chosen for a while move to tokens drawn at random from the batch of all ranks.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from training.captioner.config import CodebookConfig
from training.losses.vq import commitment_loss, nearest_codes, straight_through, vq_loss

_EPS = 1e-5
_REVIVAL = 2
"""Sets the draws of revived codes apart from those of order and views."""


class Quantised(NamedTuple):
    """What became of a batch of tokens.

    Attributes:
        tokens: Codes in the place of tokens, gradient straight through, [B, N, D].
        codes: Their indices, int64 [B, N * S].
        parts: The parts that were looked up, without gradient, [B * N * S, d].
        loss: Scalar, the mean over all elements.
    """

    tokens: Tensor
    codes: Tensor
    parts: Tensor
    loss: Tensor


def moved_average(
    usage: Tensor, total: Tensor, counts: Tensor, sums: Tensor, decay: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Move the averages of all codes by one step.

    Args:
        usage: N, [K].
        total: M, [K, d].
        counts: Tokens on each code in this step, [K].
        sums: Their sums, [K, d].
        decay: g.

    Returns:
        The new N, M and codebook.
    """
    usage = decay * usage + (1 - decay) * counts.to(usage.dtype)
    total = decay * total + (1 - decay) * sums
    smooth = (usage + _EPS) / (usage.sum() + len(usage) * _EPS) * usage.sum()
    return usage, total, total / smooth[:, None]


class Quantiser(nn.Module):
    """Replaces tokens by codes.

    Attributes:
        codebook: E, [K, d]; a parameter, or a buffer where codes are averages.
        chosen: How often each code was chosen since the last look for dead ones, int64 [K].
    """

    codebook: Tensor
    chosen: Tensor
    usage: Tensor
    total: Tensor

    def __init__(self, config: CodebookConfig) -> None:
        """Build with codes drawn from torch's global generator, evenly in [-1/K, 1/K) as published.

        Args:
            config: Of the codebook.
        """
        super().__init__()
        self.config = config
        codebook = torch.empty(config.size, config.width).uniform_(-1 / config.size, 1 / config.size)
        if config.update == "gradient":
            self.codebook = nn.Parameter(codebook)
        else:
            self.register_buffer("codebook", codebook)
            self.register_buffer("usage", torch.ones(config.size))
            self.register_buffer("total", codebook.clone())
        self.register_buffer("chosen", torch.zeros(config.size, dtype=torch.int64))

    def forward(self, tokens: Tensor) -> Quantised:
        """Look tokens up, in the precision of the codebook.

        Args:
            tokens: [B, N, D].
        """
        codebook, commitment = self.codebook, self.config.commitment
        with torch.autocast(tokens.device.type, enabled=False):
            parts = tokens.to(codebook.dtype).reshape(-1, codebook.shape[1])  # [B * N * S, d]
            codes = nearest_codes(parts, codebook)
            chosen = functional.embedding(codes, codebook)
            if self.config.update == "average":
                loss = commitment_loss(parts, chosen, commitment)
            else:
                loss = vq_loss(parts, chosen, commitment, self.config.order)
            quantised = straight_through(parts, chosen).reshape(tokens.shape)
        return Quantised(quantised, codes.reshape(len(tokens), -1), parts.detach(), loss)

    @torch.no_grad()
    def follow(self, parts: Tensor, codes: Tensor, counts: Tensor) -> None:
        """Move the codes that are averages, and note which were chosen; every rank must call it after a step.

        Args:
            parts: This rank's, [n, d].
            codes: Their codes, int64 [n].
            counts: Tokens on each code over all ranks, int64 [K].
        """
        self.chosen += counts
        if self.config.update == "gradient":
            return
        sums = torch.zeros(self.total.shape, dtype=torch.float64, device=parts.device)
        sums.index_add_(0, codes, parts.double())
        if _several():
            dist.all_reduce(sums)
        moved = moved_average(self.usage, self.total, counts, sums.to(self.total.dtype), self.config.decay)
        for old, new in zip((self.usage, self.total, self.codebook), moved, strict=True):
            old.copy_(new)

    @torch.no_grad()
    def revive(self, parts: Tensor, seed: tuple[int, ...]) -> int:
        """Move the codes that were never chosen since the last call to random tokens; every rank must call it.

        Args:
            parts: This rank's; as many on every rank, [n, d].
            seed: Of the draw, the same on every rank.

        Returns:
            How many codes were moved.
        """
        dead = (self.chosen == 0).nonzero()[:, 0]
        self.chosen.zero_()
        if not len(dead):
            return 0
        size, first = (dist.get_world_size(), dist.get_rank() * len(parts)) if _several() else (1, 0)
        random = np.random.default_rng([*seed, _REVIVAL])
        everywhere = size * len(parts)
        drawn = random.choice(everywhere, len(dead), replace=len(dead) > everywhere) - first
        picks = torch.from_numpy(drawn).to(parts.device)  # int64 [dead]
        here = (picks >= 0) & (picks < len(parts))
        tokens = torch.where(here[:, None], parts[picks.clamp(0, len(parts) - 1)], 0.0)
        if _several():
            dist.all_reduce(tokens)  # all but one rank add zeros
        self.codebook[dead] = tokens.to(self.codebook.dtype)
        if self.config.update == "average":
            self.usage[dead] = 1.0
            self.total[dead] = tokens.to(self.total.dtype)
        return len(dead)


def _several() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1
