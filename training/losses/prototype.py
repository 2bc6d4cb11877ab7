"""Prototype losses: which cluster is a feature in, asked with the means of the clusters as classes.

With l_ij = s h_i . S_j and targets P_i over the K clusters, L = mean_i (logsumexp_j l_ij - sum_j P_ij l_ij). Neither
prototypes nor centroids are normalised: those of tight clusters are longer. A soft target keeps its largest entries
only, so that no [B, K] matrix of targets is needed; see :func:`soft_targets`.
"""

import torch
from torch import Tensor
from torch.nn import functional

from training.losses.info_nce import at_least_float32

_SIMILARITIES = 1 << 24
"""Entries of the [K, K] similarities in memory at a time."""


def prototype_logits(features: Tensor, prototypes: Tensor, logit_scale: Tensor, empty: Tensor | None = None) -> Tensor:
    """Score features against prototypes.

    Args:
        features: Unit norm, [B, D].
        prototypes: Means of unit vectors, [K, D].
        logit_scale: Factor on the inner products, a scalar.
        empty: Clusters without rows, bool [K]; they leave the softmax. None keeps them with logit 0.

    Returns:
        Logits in at least float32, [B, K].
    """
    logits = logit_scale * at_least_float32(features @ prototypes.to(features.dtype).T)
    return logits if empty is None else logits.masked_fill(empty, -torch.inf)


def hard_prototype_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with one cluster as the target of each row.

    Args:
        logits: From :func:`prototype_logits`, [B, K].
        labels: int64 [B].

    Returns:
        Mean over rows, a scalar.
    """
    return functional.cross_entropy(logits, labels)


def soft_prototype_loss(logits: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy with a distribution over a few clusters as the target of each row.

    Args:
        logits: From :func:`prototype_logits`, [B, K].
        index: The clusters of each row's target, int64 [B, m].
        weight: Their shares, summing to 1 in each row, [B, m]; those of clusters that left the softmax are 0.

    Returns:
        Mean over rows, a scalar.
    """
    # a share of 0 silences a logit of minus infinity, which 0 * -inf would not
    chosen = logits.gather(1, index).masked_fill(weight == 0, 0.0)
    return (logits.logsumexp(dim=1) - (weight * chosen).sum(dim=1)).mean()


def leave_one_out(logits: Tensor, labels: Tensor, counts: Tensor, own: Tensor) -> Tensor:
    """Take each row's own snapshot out of the prototype of its cluster.

    Args:
        logits: l of the full prototypes, [B, K].
        labels: The cluster of each row, int64 [B].
        counts: Rows per cluster, [K].
        own: s h_i . H_i, the logit of each row against its own snapshot, [B].

    Returns:
        The logits with l_iy replaced by (n_y l_iy - own_i) / (n_y - 1), or by 0 where the cluster has no other row.
    """
    others = counts[labels] - 1
    full = logits.gather(1, labels[:, None])[:, 0]
    without = ((others + 1) * full - own) / others.clamp(min=1)
    return logits.scatter(1, labels[:, None], torch.where(others > 0, without, 0.0)[:, None])


@torch.no_grad()
def soft_targets(
    centroids: Tensor, temperature: float, most: int, empty: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Precompute softmax_j(C_k . C_j / temperature) for every cluster k, its largest entries only.

    Args:
        centroids: Of the teacher, [K, D].
        temperature: Above 0.
        most: Entries to keep, m; all K where there are fewer.
        empty: Clusters that no target may name, bool [K]; None allows all.

    Returns:
        Clusters named, int64 [K, m], largest share first; their shares, summing to 1, [K, m]; and the share that was
        dropped before that, [K].
    """
    most = min(most, len(centroids))
    indices: list[Tensor] = []
    weights: list[Tensor] = []
    dropped: list[Tensor] = []
    for block in centroids.split(max(_SIMILARITIES // len(centroids), 1)):
        similarity = block @ centroids.T / temperature
        if empty is not None:
            similarity = similarity.masked_fill(empty, -torch.inf)
        weight, index = similarity.softmax(dim=1).topk(most, dim=1)
        kept = weight.sum(dim=1)
        indices.append(index)
        weights.append(weight / kept[:, None])
        dropped.append((1 - kept).clamp(min=0))
    return torch.cat(indices), torch.cat(weights), torch.cat(dropped)
