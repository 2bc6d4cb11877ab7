"""The regression loss of BYOL (Grill et al. 2020, arXiv 2006.07733): a prediction turned towards a fixed target."""

from torch import Tensor
from torch.nn import functional


def byol_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean squared distance of unit vectors: 2 - 2 cos(prediction, target).

    Args:
        predictions: Of any norm, [B, K].
        targets: Of any norm, [B, K]; detached here, because a target that could move would meet the prediction at once.

    Returns:
        Scalar in [0, 4]; 0 where all directions agree.
    """
    return 2 - 2 * functional.cosine_similarity(predictions, targets.detach(), dim=-1).mean()
