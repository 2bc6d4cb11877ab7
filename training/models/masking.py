"""Which patches a view of a batch keeps, for every kind of masking; and whether a masking goes with the towers."""

from typing import Any

from torch import Tensor, nn

from assets.errors import ConfigError, message
from training.data.loader import Batch
from training.models.image_pass import num_patches
from training.models.masking_config import AttentiveMasking, BlockMasking, OracleMasking, num_blocks_kept
from training.models.score_map import block_means, map_scores, object_coverage, patches_of, ranked_blocks
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
    if isinstance(masking, AttentiveMasking) and not has_ema_tower:
        raise ConfigError(
            message(
                f"masking kind {masking.kind} goes by the attention of an averaged tower, and the recipe has none",
                fix='add "ema_tower: {momentum: 0.996}" to it',
            )
        )
