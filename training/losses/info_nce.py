"""InfoNCE, the symmetric contrastive loss of CLIP (Radford et al. 2021, arXiv 2103.00020, figure 3)."""

import torch
from torch import Tensor
from torch.nn import functional


def info_nce_loss(image_features: Tensor, text_features: Tensor, logit_scale: Tensor) -> Tensor:
    """Mean cross-entropy of picking each image's text and each text's image in the batch.

    With s the scale, z the unit vectors and l_ij = s z_i . z'_j:
    loss = 1/2 (mean_i -log softmax_j(l_ij)[i] + mean_j -log softmax_i(l_ij)[j]).

    Args:
        image_features: Unit norm, [G, D]; row i belongs to row i of ``text_features``.
        text_features: Unit norm, [G, D].
        logit_scale: Scalar, already exponentiated.

    Returns:
        Scalar in nats; log(G) when all features are equal.
    """
    logits_per_image = logit_scale * image_features @ text_features.T  # [G, G]
    labels = torch.arange(len(logits_per_image), device=logits_per_image.device)
    image_loss = functional.cross_entropy(logits_per_image.float(), labels)
    text_loss = functional.cross_entropy(logits_per_image.T.float(), labels)
    return (image_loss + text_loss) / 2
