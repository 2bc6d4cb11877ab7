"""InfoNCE, the symmetric contrastive loss of CLIP (Radford et al. 2021, arXiv 2103.00020, figure 3)."""

import torch
from torch import Tensor
from torch.nn import functional

ALL_ROWS = slice(0, None)


def at_least_float32(logits: Tensor) -> Tensor:
    """Return the logits in a precision in which sums of exponentials are safe."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def info_nce_loss(
    image_features: Tensor, text_features: Tensor, logit_scale: float | Tensor, rows: slice = ALL_ROWS
) -> Tensor:
    """Mean cross-entropy of picking each image's text and each text's image in the batch.

    With s the scale, z the unit vectors and l_ij = s z_i . z'_j:
    loss = 1/2 (mean_i -log softmax_j(l_ij)[i] + mean_j -log softmax_i(l_ij)[j]), i and j over ``rows``.

    Args:
        image_features: Unit norm, [G, D]; row i belongs to row i of ``text_features``.
        text_features: Unit norm, [G, D].
        logit_scale: Scalar, already exponentiated.
        rows: The B images and texts to average over; each still competes with all G. Losses of equal parts of the batch
            average to the loss of the whole, and a part holds [B, G] logits, never [G, G].

    Returns:
        Scalar in nats; log(G) when all features are equal.
    """
    labels = torch.arange(len(image_features), device=image_features.device)[rows]
    logits_per_image = logit_scale * image_features[rows] @ text_features.T  # [B, G]
    if len(labels) == len(image_features):
        logits_per_text = logits_per_image.T
    else:
        logits_per_text = logit_scale * text_features[rows] @ image_features.T  # [B, G]
    image_loss = functional.cross_entropy(at_least_float32(logits_per_image), labels)
    text_loss = functional.cross_entropy(at_least_float32(logits_per_text), labels)
    return (image_loss + text_loss) / 2
