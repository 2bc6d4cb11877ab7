"""The three regularisers of NMTune, on adapted features z and frozen features f.

Chen et al. 2024, https://arxiv.org/abs/2309.17002, and its released code, which differ in weights and in details:

- consistency: ``|z/|z| - f/|f||^2``, so that the head keeps what the encoder knows;
- covariance: ``(1/D) sum_{i != j} C_ij^2`` with C the covariance of the dimensions over the batch, which spreads the
  features over directions;
- dominant share: ``-(1/k) sum_{i <= k} p_i`` with ``p_i = sigma_i / sum_j sigma_j`` of the uncentred batch, which
  strengthens the leading directions; they are said to be those that transfer.

Covariance grows with the fourth power of the features' scale; the other two do not depend on it. Dominant shares depend
on the number of rows of the batch while that is below D.
"""

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

if TYPE_CHECKING:
    from evaluation.tuning.config import Regularisers

# keeps the slope of a square root finite where a singular value is 0
_TINY = 1e-12


def consistency_loss(adapted: Tensor, frozen: Tensor, per_dimension: bool = True) -> Tensor:
    """Measure how far the directions of adapted features are from those of frozen ones.

    Args:
        adapted: z, [n, D].
        frozen: f, the targets; no gradient goes there, [n, D].
        per_dimension: Whether to divide by D.

    Returns:
        Mean over rows of the squared distance between unit vectors, at most 4 (4 / D).
    """
    apart = normalize(adapted, dim=1) - normalize(frozen.detach(), dim=1)
    distance = apart.square().sum(dim=1).mean()
    return distance / adapted.shape[1] if per_dimension else distance


def covariance_loss(adapted: Tensor) -> Tensor:
    """Sum the squared covariances between different dimensions, over D.

    Args:
        adapted: z, at least two rows, [n, D]. With fewer rows than dimensions the covariances are never formed.

    Returns:
        0 or more.
    """
    rows, dims = adapted.shape
    centred = adapted - adapted.mean(dim=0)
    if rows >= dims:
        covariance = centred.T @ centred / (rows - 1)
        return (covariance.square().sum() - covariance.diagonal().square().sum()) / dims
    # the squared entries of X'X and XX' have the same sum
    everything = (centred @ centred.T).square().sum()
    variances = centred.square().sum(dim=0)
    return (everything - variances.square().sum()) / ((rows - 1) ** 2 * dims)


def singular_values(features: Tensor, through: Literal["gram", "svd"] = "gram") -> Tensor:
    """Return the singular values of a matrix.

    Args:
        features: [n, D].
        through: ``gram`` takes square roots of the eigenvalues of the smaller Gram matrix, which is faster and loses
            half of the digits of small values; ``svd`` is exact.

    Returns:
        Descending, [min(n, D)].
    """
    if through == "svd":
        return torch.linalg.svdvals(features)
    rows, dims = features.shape
    gram = features @ features.T if rows <= dims else features.T @ features
    return (torch.linalg.eigvalsh(gram).flip(0).clamp(min=0) + _TINY).sqrt()


def dominant_loss(adapted: Tensor, top: int, through: Literal["gram", "svd"] = "gram") -> Tensor:
    """Return minus the mean share of the dominant singular values.

    Args:
        adapted: z, neither centred nor normalised, [n, D].
        top: How many count as dominant; all, where there are fewer.
        through: See :func:`singular_values`.

    Returns:
        Between -1 / top and 0.
    """
    values = singular_values(adapted, through)
    return -values[:top].mean() / values.sum()


def tuning_losses(
    adapted: Tensor, logits: Tensor, frozen: Tensor, labels: Tensor, regularisers: "Regularisers | None"
) -> dict[str, Tensor]:
    """Compute the weighted terms of one step; their sum is what is minimised.

    Args:
        adapted: z of the first views of B images, then of their second views, [2 B, D].
        logits: Of the same, [2 B, C].
        frozen: f of the same, [2 B, D].
        labels: Class of each image, [B].
        regularisers: Weights and forms; None, or a weight of 0, leaves terms out.

    Returns:
        ``cross_entropy_loss`` and what has a weight of ``consistency_loss``, ``covariance_loss``, ``dominant_loss``.
    """
    losses = {"cross_entropy_loss": cross_entropy(logits, torch.cat([labels, labels]))}
    if regularisers is None:
        return losses
    images = len(labels)
    if regularisers.consistency > 0:
        crossed = regularisers.pairing == "cross"
        pair = (adapted[images:], frozen[:images]) if crossed else (adapted, frozen)
        losses["consistency_loss"] = regularisers.consistency * consistency_loss(*pair, regularisers.per_dimension)
    if regularisers.covariance > 0:
        losses["covariance_loss"] = regularisers.covariance * covariance_loss(adapted)
    if regularisers.dominant > 0:
        losses["dominant_loss"] = regularisers.dominant * dominant_loss(adapted, regularisers.top)
    return losses
