"""Contrastive losses of an image with several texts of its own (FLAME: Cao et al. 2024, arXiv 2411.11927).

With v_i the image's unit vector, t_jk the K unit rows of pair j, l_ijk = s v_i . t_jk and N pairs:

    softmax: 1/K sum_k 1/2 [mean_i -log softmax_j(l_ijk)[i] + mean_j -log softmax_i(l_ijk)[j]]
    sigmoid: -1/(N K) sum_i sum_j sum_k log sigmoid(y_ij (l_ijk + b)),  y_ij = 1 for i = j, -1 elsewhere

Softmax compares an image with the k-th rows of all pairs, one k at a time, so its own further rows are never negatives;
permuting them matters only if not all pairs are permuted alike. Sigmoid does not know which row is which.
"""

import torch
from torch import Tensor

from training.losses.info_nce import ALL_ROWS, info_nce_loss
from training.losses.sigmoid import sigmoid_loss


def multi_positive_softmax_loss(
    image_features: Tensor, text_rows: Tensor, logit_scale: Tensor, rows: slice = ALL_ROWS
) -> Tensor:
    """Mean over k of InfoNCE between the images and the k-th rows.

    Args:
        image_features: Unit norm, [G, D].
        text_rows: Unit norm, [G, K, D]; those at place i belong to image i.
        logit_scale: Scalar, already exponentiated.
        rows: The B images, and the texts of B pairs, to average over; each competes with all G.

    Returns:
        Scalar in nats; log(G) when all features are equal.
    """
    losses = [info_nce_loss(image_features, texts, logit_scale, rows) for texts in text_rows.unbind(dim=1)]
    return torch.stack(losses).mean()


def multi_positive_sigmoid_loss(
    image_features: Tensor, text_rows: Tensor, logit_scale: Tensor, logit_bias: Tensor, rows: slice = ALL_ROWS
) -> Tensor:
    """Binary cross-entropy of every image with every row, summed over pairs j, averaged over images and over k.

    Args:
        image_features: Unit norm, [G, D].
        text_rows: Unit norm, [G, K, D]; those at place i belong to image i.
        logit_scale: Scalar, already exponentiated.
        logit_bias: Scalar added to every logit.
        rows: The B images to average over; losses of equal parts of the batch average to the loss of the whole.

    Returns:
        Scalar in nats per image and row.
    """
    losses = [sigmoid_loss(image_features, texts, logit_scale, logit_bias, rows) for texts in text_rows.unbind(dim=1)]
    return torch.stack(losses).mean()
