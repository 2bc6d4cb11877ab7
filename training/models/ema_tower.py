"""A slowly moving average of the image tower that tells which patches its class token attends to (A-CLIP).

w' <- m_t w' + (1 - m_t) w at the start of step t, with the weights that step t - 1 left, and
m_t = 1 - (1 - m_0) (1 + cos(pi t / T)) / 2 over the T steps of the budget. The tower never drops tokens, gets no
gradient, and starts as a copy. Its score of a patch is the attention of the class token to it, after the softmax,
averaged over all layers and heads. Attention runs fused; only the class token's own row is computed beside it. In a
tower for frozen text, whose class token is dropped in the end, nothing trains what that token asks for in the last
layer, which is left out.
"""

import copy
import math
from typing import Any, NamedTuple

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional
from torch.optim.swa_utils import get_ema_multi_avg_fn

from assets.errors import ConfigError, message
from training.losses.info_nce import at_least_float32
from training.models.frozen_text import PatchTower
from training.models.image_pass import num_patches
from training.models.masking_config import EmaTowerConfig


class EmaPass(NamedTuple):
    """What the averaged tower gives; nothing has a gradient.

    Attributes:
        pooled: The class token after the final norm, or, of a tower for frozen text, the mean of its patches, [B, W].
        scores: Attention of the class token to each patch, at least float32 [B, rows, columns]; sums to less than 1.
    """

    pooled: Tensor
    scores: Tensor


def ema_momentum(start: float, step: int, steps: int) -> float:
    """Return m_t, rising from ``start`` at step 0 to nearly 1 at the last of ``steps``."""
    return 1 - (1 - start) * (1 + math.cos(math.pi * step / steps)) / 2


@torch.no_grad()
def ema_update(average: nn.Module, module: nn.Module, momentum: float) -> None:
    """Move the parameters of an average towards those of a module of the same shape; buffers stay.

    Args:
        average: Changed in place; whole on every rank.
        module: May be sharded; all ranks must then call this together.
        momentum: Share of the average that stays.
    """
    present = [p.full_tensor() if isinstance(p, DTensor) else p.detach() for p in module.parameters()]
    get_ema_multi_avg_fn(momentum)(list(average.parameters()), present, 0)


class EmaTower(nn.Module):
    """The averaged image tower; a submodule of the method, so that checkpoints hold it."""

    def __init__(self, visual: nn.Module, config: EmaTowerConfig) -> None:
        """Copy a tower.

        Args:
            visual: An image tower of open_clip.
            config: Momentum and resolution.

        Raises:
            ConfigError: The tower has no class token that stands for the image, or cannot see smaller images.
        """
        super().__init__()
        num_patches(visual)
        _check(visual, config)
        self.config = config
        self.visual: Any = copy.deepcopy(visual).requires_grad_(False)

    def update(self, visual: nn.Module, step: int, steps: int) -> None:
        """Move towards the present weights, before step ``step`` of ``steps``; a no-op at step 0."""
        ema_update(self.visual, visual, ema_momentum(self.config.momentum, step, steps))

    @torch.no_grad()
    def forward(self, image: Tensor) -> EmaPass:
        """Run the tower and watch its class token.

        Args:
            image: Normalised pixels, [B, 3, S / shrink, S / shrink].
        """
        visual = self.visual
        rows, columns = (side // self.config.shrink for side in visual.grid_size)
        patches = visual.conv1(image).flatten(2).transpose(1, 2)  # [B, N, W]
        assert patches.shape[1] == rows * columns, f"image of {tuple(image.shape)}"
        positions = self._positions(rows, columns).to(patches.dtype)
        first = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        x = visual.ln_pre(torch.cat([first, patches], dim=1) + positions)  # [B, 1 + N, W]
        attention: list[Tensor] = []
        for block in visual.transformer.resblocks:
            x, paid = _watched_block(block, x)
            attention.append(paid)
        pooled, _ = visual._pool(x)
        if isinstance(visual, PatchTower):
            attention.pop()
        return EmaPass(pooled, torch.stack(attention).mean(dim=0).unflatten(1, (rows, columns)))

    def _positions(self, rows: int, columns: int) -> Tensor:
        """Return the position embeddings, resized where the tower sees smaller images, [1 + N, W]."""
        embedding: Tensor = self.visual.positional_embedding
        if self.config.shrink == 1:
            return embedding
        grid = embedding[1:].float().unflatten(0, self.visual.grid_size).permute(2, 0, 1)  # [W, rows, columns]
        small = functional.interpolate(grid[None], (rows, columns), mode="bicubic")[0]
        return torch.cat([embedding[:1], small.flatten(1).T.to(embedding.dtype)])


def _watched_block(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Run one block; also return the class token's attention to the patches, mean over heads, [B, N]."""
    attn = block.attn
    qkv = functional.linear(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias)  # [B, 1 + N, 3 W]
    query, key, value = qkv.unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)  # [B, H, 1 + N, W / H]
    mixed = functional.scaled_dot_product_attention(query, key, value)
    x = x + block.ls_1(attn.out_proj(mixed.transpose(1, 2).flatten(2)))
    x = x + block.ls_2(block.mlp(block.ln_2(x)))
    return x, class_attention(query[:, :, 0], key)


def class_attention(query: Tensor, key: Tensor) -> Tensor:
    """Return the class token's attention to the patches, mean over heads; what it pays to itself is left out.

    Args:
        query: The class token's, [B, H, W / H].
        key: Of all tokens, the class token's first, [B, H, 1 + N, W / H].

    Returns:
        At least float32 [B, N].
    """
    logits = (query[:, :, None] @ key.transpose(2, 3)).squeeze(2)  # [B, H, 1 + N]
    return (at_least_float32(logits) * query.shape[-1] ** -0.5).softmax(dim=-1)[:, :, 1:].mean(dim=1)


def _check(visual: Any, config: EmaTowerConfig) -> None:
    if isinstance(visual, PatchTower):
        if len(visual.transformer.resblocks) == 1:
            what = "ema_tower goes by all layers but the last where text is frozen, and vision.layers is 1"
            raise ConfigError(message(what, fix="use more layers, or no ema_tower"))
    elif visual.attn_pool is not None or visual.pool_type != "tok":
        raise ConfigError(
            message(
                "ema_tower watches the class token, which does not stand for the image in this tower",
                "attention pooling" if visual.attn_pool is not None else f"pool_type {visual.pool_type}",
                "pool_type tok",
            )
        )
    kinds = {type(block) for block in visual.transformer.resblocks}
    if kinds != {ResidualAttentionBlock}:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise ConfigError(message("ema_tower cannot watch the attention of such blocks", names, "plain ones"))
    if any(side % config.shrink for side in visual.grid_size):
        raise ConfigError(
            message(
                f"ema_tower.shrink {config.shrink} does not divide the patches",
                f"{visual.grid_size[0]} x {visual.grid_size[1]} of them",
                fix="set it to 1, or change image_size or patch_size",
            )
        )
