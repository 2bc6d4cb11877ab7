"""The pairwise sigmoid loss of SigLIP (Zhai et al. 2023, arXiv 2303.15343, algorithm 1)."""

import torch
from torch import Tensor
from torch.nn import functional

from training.losses.info_nce import ALL_ROWS, at_least_float32


def sigmoid_loss(
    image_features: Tensor, text_features: Tensor, logit_scale: Tensor, logit_bias: Tensor, rows: slice = ALL_ROWS
) -> Tensor:
    """Binary cross-entropy of every image-text pair, summed over texts and averaged over images.

    With l_ij = s z_i . z'_j + b and y_ij = 1 for i = j, -1 elsewhere:
    loss = -1/B sum_i sum_j log sigmoid(y_ij l_ij), i over ``rows`` and j over the whole batch.

    Args:
        image_features: Unit norm, [G, D]; row i belongs to row i of ``text_features``.
        text_features: Unit norm, [G, D].
        logit_scale: Scalar, already exponentiated.
        logit_bias: Scalar added to every logit.
        rows: The B images to average over; losses of equal parts of the batch average to the loss of the whole.

    Returns:
        Scalar in nats per image.
    """
    logits_per_image = at_least_float32(logit_scale * image_features[rows] @ text_features.T + logit_bias)  # [B, G]
    own = torch.arange(len(image_features), device=image_features.device)
    signs = 2.0 * (own[rows, None] == own[None, :]) - 1.0  # [B, G]
    return -functional.logsigmoid(signs * logits_per_image).sum() / len(logits_per_image)
