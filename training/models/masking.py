"""Which patches a view of a batch keeps, for every kind of masking; what they hold; and whether towers can do it."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from assets.errors import ConfigError, message
from training.data.loader import Batch
from training.models.image_pass import num_patches
from training.models.masking_config import (
    AttentiveMasking,
    BlockMasking,
    Masking,
    NoMasking,
    OracleMasking,
    num_blocks_kept,
)
from training.models.score_map import (
    block_means,
    map_entropy,
    map_scores,
    object_areas,
    object_coverage,
    patches_of,
    ranked_blocks,
    share_on_kept,
)
from training.models.token_select import random_keep


def choose_patches(
    masking: BlockMasking, grid: tuple[int, int], batch: Batch, view: tuple[str, int], scores: Tensor | None
) -> Tensor:
    """Choose the patches that one view keeps.

    Args:
        masking: How.
        grid: Rows and columns of the view's patches.
        batch: With ``seed``, and the boxes of the views and objects where the masking goes by them.
        view: The view's name in the batch, and its number.
        scores: Of the averaged tower's patches, [B, rows, columns], where the masking goes by them.

    Returns:
        Indices of patches in ascending order, int64 [B, K]; the same K for every sample.
    """
    (rows, columns), (name, number) = grid, view
    num_keep = num_blocks_kept(masking, rows * columns)
    if isinstance(masking, AttentiveMasking):
        assert scores is not None
        mapped = map_scores(scores, batch["ema_image_box"], batch[f"{name}_box"], grid)
        blocks = ranked_blocks(block_means(mapped, masking.block), num_keep, masking.kind == "inverse")
    elif isinstance(masking, OracleMasking):
        covered = object_coverage(batch["objects"], batch[f"{name}_box"], grid)
        blocks = ranked_blocks(block_means(covered, masking.block), num_keep)
    else:
        blocks = random_keep(batch["seed"], rows * columns // masking.block**2, num_keep, stream=number)
    return patches_of(blocks, columns, masking.block)


def watch_masks(
    masking: Masking, grid: tuple[int, int], batch: Batch, views: Iterable[tuple[str, int]], scores: Tensor | None
) -> dict[str, Tensor]:
    """Measure what the masks of a batch keep.

    Args:
        masking: As in this step; without masking everything is kept.
        grid: Rows and columns of the views' patches.
        batch: As for :func:`choose_patches`, with the boxes of views and objects.
        views: Name of each view in the batch, and its number.
        scores: Of the averaged tower's patches, [B, rows, columns], where the masking goes by them.

    Returns:
        Values per sample, [B] each: ``kept_share`` of the patches, mean over views; ``object_coverage``, the share of
        the objects' area inside a view that lies on kept patches, mean over the views in which an object lies, NaN
        for a sample without one; ``attention_entropy`` of the scores where there are some, 1 when they are all equal.
    """
    num_patches, objects = grid[0] * grid[1], batch["objects"]
    kept_shares: list[Tensor] = []
    coverages: list[Tensor] = []
    for view in views:
        if isinstance(masking, NoMasking):
            keep = torch.arange(num_patches, device=objects.device).expand(len(objects), -1)
        else:
            keep = choose_patches(masking, grid, batch, view, scores)
        kept_shares.append(torch.full((len(objects),), keep.shape[1] / num_patches, device=objects.device))
        coverages.append(share_on_kept(object_areas(objects, batch[f"{view[0]}_box"], grid), keep))
    measures = {
        "kept_share": torch.stack(kept_shares).mean(dim=0),
        "object_coverage": torch.stack(coverages).nanmean(dim=0),
    }
    return measures if scores is None else {**measures, "attention_entropy": map_entropy(scores)}


def check_masking(masking: BlockMasking, visual: nn.Module, has_ema_tower: bool) -> None:
    """Refuse a masking that the image tower or the recipe cannot serve.

    Args:
        masking: How patches are chosen.
        visual: An image tower of open_clip.
        has_ema_tower: Whether the recipe has an averaged tower.

    Raises:
        ConfigError: With what to change.
    """
    num_patches(visual)
    tower: Any = visual
    rows, columns = tower.grid_size
    if rows % masking.block or columns % masking.block:
        raise ConfigError(
            message(
                f"masking.block {masking.block} does not divide the patches",
                f"{rows} x {columns} of them",
                fix="choose another block, image_size or patch_size",
            )
        )
    blocks = rows * columns // masking.block**2
    if masking.rounding == "down" and masking.keep * blocks < 1:
        least = f"at least {1 / blocks:.3g}"
        raise ConfigError(message(f"masking.keep leaves none of the {blocks} blocks", masking.keep, least))
    if num_blocks_kept(masking, rows * columns) == blocks:
        fix = 'choose less, or set masking to {"kind": "none"}'
        raise ConfigError(
            message(f"masking.keep leaves all of the {blocks} blocks, so nothing is masked", masking.keep, fix=fix)
        )
    if isinstance(masking, AttentiveMasking) and not has_ema_tower:
        raise ConfigError(
            message(
                f"masking kind {masking.kind} goes by the attention of an averaged tower, and the recipe has none",
                fix='add "ema_tower: {momentum: 0.996}" to it',
            )
        )
