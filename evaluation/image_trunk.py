"""The image tower of an export in two parts: everything before the projection to the shared space, and the projection.

Published linear probes read a Vision Transformer before its projection, because the projection keeps what the captions
needed. A ResNet of the CLIP kind ends in an attention pool that projects as it pools; nothing comes before it, so its
pooled features are the projected ones (Radford et al. 2021, appendix A.3, https://arxiv.org/abs/2103.00020).
"""

import copy
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any, TypeVar

from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

Part = Callable[[Tensor], Tensor]
_Tower = TypeVar("_Tower", bound=nn.Module)
# names of the projection in the head of a timm tower
_TIMM_PROJECTIONS = ("proj", "mlp")


def split_tower(model: Any) -> tuple[Part, Part]:
    """Split the image tower so that one forward pass gives the features before and after the projection.

    Args:
        model: An open_clip model; it stays as it is, and both parts share its weights.

    Returns:
        Pictures [B, 3, height, width] -> pooled features [B, W], and pooled features -> image features [B, D], not
        normalised; the second is the identity for towers without a projection of their own.
    """
    visual = model.visual
    if isinstance(visual, VisionTransformer) and visual.proj is not None and not visual.output_tokens:
        projection = visual.proj
        trunk = _twin(visual)
        trunk.proj = None
        return trunk, lambda pooled: pooled @ projection
    if isinstance(visual, TimmModel):
        names = [name for name, _ in visual.head.named_children() if name in _TIMM_PROJECTIONS]
        trunk = _twin(visual)
        for name in names:
            setattr(trunk.head, name, nn.Identity())
        return trunk, nn.Sequential(*(getattr(visual.head, name) for name in names))
    return partial(model.encode_image, normalize=False), nn.Identity()


def _twin(tower: _Tower) -> _Tower:
    """Copy a module but not its tensors, so that the copy can lose a part while the original keeps it."""
    shared = {id(tensor): tensor for tensor in chain(tower.parameters(), tower.buffers())}
    return copy.deepcopy(tower, shared)
