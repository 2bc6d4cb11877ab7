"""Penalties on lexical vectors: the overuse penalty of LexVLA, and the FLOPs regulariser it replaces.

S is a batch of non-negative vectors over V words, a_j = mean_i s_ij how much word j is used, A = sum_j a_j:

    flops   = sum_j a_j^2                      (Paria et al., arXiv 2004.05665; SPLADE: arXiv 2107.05720)
    overuse = V sum_j (a_j / A) a_j^2          (LexVLA: arXiv 2407.17827, eq. 7)

Overuse weighs each word's term by its share of all use, relative to an equal share: of unit vectors, flops cannot tell
"every word a little" from "everybody the same word", which are both 1, and overuse says 1 and V. Its gradient is
negative for words with a_j^2 < sum_k a_k^3 / (3 A): rare words are pushed up. Neither term is linear in the batch mean,
so it belongs on the vectors of all ranks.
"""

import torch
from torch import Tensor

_LEAST_USE = 1e-12


def word_use(vectors: Tensor) -> Tensor:
    """Return how much each word is used, in float32 at least.

    Args:
        vectors: Non-negative, [N, V].

    Returns:
        [V].
    """
    return vectors.to(torch.promote_types(vectors.dtype, torch.float32)).mean(dim=0)


def flops_penalty(vectors: Tensor) -> Tensor:
    """Sum of the squared use of every word.

    Args:
        vectors: Non-negative, [N, V].

    Returns:
        Scalar; of unit vectors the mean of all N^2 inner products, hence between 1 / N and 1.
    """
    return word_use(vectors).square().sum()


def overuse_penalty(vectors: Tensor, detach_weight: bool = False) -> Tensor:
    """Sum of the squared use of every word, weighted by the word's share of all use.

    Args:
        vectors: Non-negative, [N, V].
        detach_weight: Send no gradient through the share; no word is then pushed up.

    Returns:
        Scalar, at least :func:`flops_penalty`; equal to it only where all words are used alike.
    """
    use = word_use(vectors)
    share = use / use.sum().clamp(min=_LEAST_USE)
    return len(use) * ((share.detach() if detach_weight else share) * use.square()).sum()


def quadratic_warmup(weight: float, step: int, warmup_steps: int) -> float:
    """Return the weight of a penalty in a step: weight (min(k, T) / T)^2 with k = 1 in the first step.

    Args:
        weight: What it rises to.
        step: Optimiser step, from 0.
        warmup_steps: T; 0 for no rise.
    """
    return weight if step + 1 >= warmup_steps else weight * ((step + 1) / warmup_steps) ** 2
