"""Vector quantisation with a straight-through gradient (van den Oord et al. 2017, arXiv 1711.00937).

For tokens z [n, d] and a codebook E [K, d]: k_i = argmin_k |z_i - e_k|^2, ties to the lowest k, and
q_i = z_i + sg(e_{k_i} - z_i), which has the value of the code, the identity as gradient to z and none to E.
"""

from typing import Literal

import torch
from torch import Tensor

Order = Literal["paper", "legacy"]

_DISTANCES = 1 << 22
"""Distances in memory at a time: all of them would be gigabytes at the published sizes."""


@torch.no_grad()
def nearest_codes(tokens: Tensor, codebook: Tensor, most: int = _DISTANCES) -> Tensor:
    """Find the nearest code of each token.

    Args:
        tokens: [n, d].
        codebook: [K, d].
        most: Distances in memory at a time.

    Returns:
        Indices, int64 [n].
    """
    squares = codebook.square().sum(dim=1)  # [K]
    # |z|^2 is the same for all codes
    blocks = tokens.split(max(most // len(codebook), 1))
    return torch.cat([torch.addmm(squares, block, codebook.T, alpha=-2).argmin(dim=1) for block in blocks])


def straight_through(tokens: Tensor, chosen: Tensor) -> Tensor:
    """Put codes in the place of tokens, and let gradients pass as if nothing had happened.

    Args:
        tokens: [..., d].
        chosen: The code of each token, [..., d].

    Returns:
        The codes exactly; the gradient goes to the tokens alone.
    """
    # z + sg(e - z) would round
    return _Replace.apply(tokens, chosen)  # pyright: ignore[reportReturnType]


class _Replace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, tokens: Tensor, chosen: Tensor) -> Tensor:
        return chosen.clone()

    @staticmethod
    def backward(ctx: object, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return grad_outputs[0], None


def vq_loss(tokens: Tensor, chosen: Tensor, commitment: float, order: Order = "paper") -> Tensor:
    """Pull tokens to their codes and codes to their tokens: a mean((sg(e) - z)^2) + b mean((e - sg(z))^2).

    Args:
        tokens: [..., d].
        chosen: The code of each token, [..., d]; without a gradient only the first term is one.
        commitment: beta.
        order: ``paper`` for a = beta and b = 1, ``legacy`` for a = 1 and b = beta: the same value, other gradients.

    Returns:
        Scalar, the mean over all elements.
    """
    to_codes = (chosen.detach() - tokens).square().mean()
    to_tokens = (chosen - tokens.detach()).square().mean()
    return commitment * to_codes + to_tokens if order == "paper" else to_codes + commitment * to_tokens


def commitment_loss(tokens: Tensor, chosen: Tensor, commitment: float) -> Tensor:
    """Pull tokens to codes that follow them by other means: beta mean((sg(e) - z)^2).

    Args:
        tokens: [..., d].
        chosen: The code of each token, [..., d].
        commitment: beta.

    Returns:
        Scalar, the mean over all elements.
    """
    return commitment * (chosen.detach() - tokens).square().mean()


def perplexity(counts: Tensor) -> Tensor:
    """Say how many codes are in use: exp(-sum_k p_k log(p_k + 1e-10)).

    Args:
        counts: How often each code was chosen, [K]; not all of them 0.

    Returns:
        Scalar in [1, K]; K when all are chosen alike.
    """
    share = counts.double() / counts.sum()
    return (-(share * (share + 1e-10).log()).sum()).exp()
