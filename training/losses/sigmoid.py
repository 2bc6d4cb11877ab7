"""The pairwise sigmoid loss of SigLIP (Zhai et al. 2023, arXiv 2303.15343, algorithm 1)."""

import torch
from torch import Tensor
from torch.nn import functional


def sigmoid_loss(image_features: Tensor, text_features: Tensor, logit_scale: Tensor, logit_bias: Tensor) -> Tensor:
    """Binary cross-entropy of every image-text pair, summed over texts and averaged over images.

    With l_ij = s z_i . z'_j + b and y_ij = 1 on the diagonal, -1 elsewhere:
    loss = -1/G sum_ij log sigmoid(y_ij l_ij).

    Args:
        image_features: Unit norm, [G, D]; row i belongs to row i of ``text_features``.
        text_features: Unit norm, [G, D].
        logit_scale: Scalar, already exponentiated.
        logit_bias: Scalar added to every logit.

    Returns:
        Scalar in nats per image.
    """
    logits_per_image = (logit_scale * image_features @ text_features.T + logit_bias).float()  # [G, G]
    signs = 2 * torch.eye(len(logits_per_image), device=logits_per_image.device) - 1  # [G, G]
    return -functional.logsigmoid(signs * logits_per_image).sum() / len(logits_per_image)
