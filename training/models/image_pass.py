"""Run an image tower on some of its patches: what is dropped costs nothing, not even its patch embedding.

x = [class; patches] + positions, as open_clip has it, then only the kept rows go on. Positions are added before rows
are dropped, so a kept patch keeps its place; the order of the kept patches does not matter. With all patches this is
the tower's own forward, operation by operation.
"""

import copy
from typing import Any, NamedTuple

import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from assets.errors import ConfigError, message
from training.models.timm_tower import TimmPatchTower


class ImagePass(NamedTuple):
    """What an image tower gives.

    Attributes:
        image_features: Projected, not normalised, [B, D].
        pooled: What the projection got, [B, W]; the same as ``image_features`` for towers that are not a ViT, whose
            projection is part of their pooling.
        image_token_features: The tower's last patch tokens, [B, K, W] in the order of ``keep`` or of the image; after
            the final norm unless the tower applies it to the pooled token only. A ViT with attention pooling gives
            the pooler's tokens instead, and a tower that is not a ViT none, [B, 0, D].
    """

    image_features: Tensor
    pooled: Tensor
    image_token_features: Tensor


def num_patches(visual: nn.Module) -> int:
    """Return N, the number of patch tokens that can be kept or dropped.

    Args:
        visual: An image tower of open_clip.

    Raises:
        ConfigError: The tower cannot drop tokens, or already drops some by itself.
    """
    if not isinstance(visual, VisionTransformer):
        raise ConfigError(
            message(
                "this image tower cannot drop tokens",
                type(visual).__name__,
                "open_clip's VisionTransformer (vision.kind vit, or a named ViT that is not from timm)",
                'set masking to {"kind": "none"} or choose such a tower',
            )
        )
    tower: Any = visual
    if not isinstance(tower.patch_dropout, nn.Identity):
        raise ConfigError(
            message(
                f"this image tower drops patches by itself (patch_dropout {tower.patch_dropout.prob})"
                " and cannot be told which ones to keep",
                fix='set masking to {"kind": "none"} or choose a tower without patch_dropout',
            )
        )
    rows, columns = tower.grid_size
    return rows * columns


def pooled_width(visual: nn.Module) -> int:
    """Return W of :attr:`ImagePass.pooled`."""
    return _shapes(visual).pooled.shape[-1]


def feature_width(visual: nn.Module) -> int:
    """Return D of :attr:`ImagePass.image_features`, of the tower alone."""
    return _shapes(visual).image_features.shape[-1]


def _shapes(visual: nn.Module) -> ImagePass:
    """Ask a copy of the tower that has shapes only."""
    tower: Any = copy.deepcopy(visual).to("meta").eval()
    side = tower.image_size
    image = torch.empty(1, 3, *((side, side) if isinstance(side, int) else side), device="meta")
    with torch.no_grad():
        return encode_image(tower, image)


def encode_image(visual: nn.Module, image: Tensor, keep: Tensor | None = None) -> ImagePass:
    """Run an image tower, on the kept patches only if there is a choice.

    Args:
        visual: An image tower of open_clip, or one of timm for frozen text.
        image: Normalised pixels, [B, 3, S, S].
        keep: Indices of the patches that stay, row by row from 0 to N - 1, int64 [B, K], no index twice in a row; the
            class token always stays. None runs the tower as it is, for which any tower will do.

    Returns:
        Features; the average over patches, where a tower pools so, is that over the kept ones.

    Raises:
        ConfigError: ``keep`` was given for a tower that cannot use it, see :func:`num_patches`.
    """
    if keep is not None:
        num_patches(visual)
    elif isinstance(visual, TimmPatchTower):
        own, patches = visual.tokens(image)
        return ImagePass(own, own, patches)
    elif not isinstance(visual, VisionTransformer):
        features: Tensor = visual(image)
        return ImagePass(features, features, features.new_empty(len(features), 0, features.shape[-1]))
    tower: Any = visual
    x = tower._embeds(image) if keep is None else tower.ln_pre(_embed_kept(tower, image, keep))  # [B, 1 + K, W]
    pooled, tokens = tower._pool(tower.transformer(x))
    return ImagePass(pooled if tower.proj is None else pooled @ tower.proj, pooled, tokens)


def _embed_kept(tower: Any, image: Tensor, keep: Tensor) -> Tensor:
    """Embed the class token and the kept patches with their positions, [B, 1 + K, W]."""
    rows, columns = tower.grid_size
    height, width = tower.patch_size
    assert image.shape[-2] // height == rows and image.shape[-1] // width == columns, f"image of {tuple(image.shape)}"
    # a strided convolution ignores what is left over at the edges
    grid = image[:, :, : rows * height, : columns * width].unflatten(2, (rows, height)).unflatten(4, (columns, width))
    grid = grid.permute(0, 2, 4, 1, 3, 5)  # [B, rows, columns, 3, height, width], a view
    sample = torch.arange(len(image), device=image.device)[:, None]
    patches = grid[sample, keep // columns, keep % columns].flatten(2)  # [B, K, 3 * height * width]
    # the same products as the strided convolution's; a matrix product over kept patches skips the others
    x = functional.linear(patches, tower.conv1.weight.flatten(1))  # [B, K, W]
    position = tower.positional_embedding.to(x.dtype)
    # a lookup as embedding, because its gradient is cheaper than that of indexing
    x = x + functional.embedding(keep, position[1:])
    first = tower.class_embedding.to(x.dtype) + position[0]
    return torch.cat([first.expand(len(x), 1, -1), x], dim=1)
