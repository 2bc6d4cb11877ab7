"""From scores of one view's patches to the patches that another view keeps, and what of the objects lies on these.

No loop over samples. Maps are taken to float64: a rounding must not decide what is kept, and autocast leaves it alone.
"""

import math

import torch
from torch import Tensor


def _neighbours(position: Tensor, count: Tensor | int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two of ``count`` cells between whose centres a position lies, and the weight of the second."""
    position = position.clamp(min=0)  # beyond the first and the last centre their values go on
    first = position.floor().clamp(max=count - 1)
    return first, (first + 1).clamp(max=count - 1), position - first


def resample_matrix(source: Tensor, target: Tensor, num_in: int, num_out: int) -> Tensor:
    """Return the matrix that takes scores along one axis of a source view to a target view of the same picture.

    It equals three steps: stretch the scores bilinearly over the source's pixels, cut out the target, with zeros where
    it leaves the source, and shrink the cut bilinearly without a filter. Both axes do this independently, so the map
    of the target is R_rows S R_columns^T.

    Args:
        source: Start and length in pixels of the source view on this axis, int64 [B, 2].
        target: Start and length of the target view, int64 [B, 2].
        num_in: Scores along the axis.
        num_out: Scores wanted.

    Returns:
        float64 [B, num_out, num_in]; rows sum to 1 inside of the source.
    """
    start, length = (target[:, 0] - source[:, 0])[:, None], target[:, 1:]  # [B, 1]
    out = torch.arange(num_out, device=source.device) + 0.5
    first, second, weight = _neighbours(out.double() * length / num_out - 0.5, length)  # [B, num_out]
    matrix = torch.zeros(len(source), num_out, num_in, dtype=torch.float64, device=source.device)
    cells = torch.arange(num_in, device=source.device)
    for pixel, share in ((first, 1 - weight), (second, weight)):
        pixel = pixel + start
        inside = (pixel >= 0) & (pixel < source[:, 1:])
        low, high, part = _neighbours((pixel + 0.5) * num_in / source[:, 1:] - 0.5, num_in)
        share = share * inside
        matrix = matrix + (low[..., None] == cells) * (share * (1 - part))[..., None]
        matrix = matrix + (high[..., None] == cells) * (share * part)[..., None]
    return matrix


def map_scores(scores: Tensor, source_box: Tensor, target_box: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resample a map of scores from one view of a picture to another.

    Args:
        scores: [B, rows, columns] over the source view, which is not mirrored.
        source_box: Its place: top, left, height, width, flip, int64 [B, 5].
        target_box: Place of the view wanted, int64 [B, 5].
        grid: Rows and columns wanted.

    Returns:
        float64 [B, *grid]; 0 where the target leaves the source.
    """
    rows = resample_matrix(source_box[:, 0:3:2], target_box[:, 0:3:2], scores.shape[1], grid[0])
    columns = resample_matrix(source_box[:, 1:4:2], target_box[:, 1:4:2], scores.shape[2], grid[1])
    mapped = rows @ scores.double() @ columns.transpose(1, 2)  # [B, *grid]
    return torch.where(target_box[:, 4, None, None] > 0, mapped.flip(2), mapped)


def _axis_shares(objects: Tensor, target_box: Tensor, grid: tuple[int, int], axis: int) -> Tensor:
    """Return the share of each row (axis 0) or column (1) of patches that each object spans, [B, O, cells]."""
    start, length = objects[:, :, axis, None], objects[:, :, axis + 2, None]  # [B, O, 1]
    edges = torch.arange(grid[axis] + 1, device=objects.device).double() / grid[axis]
    edges = target_box[:, axis, None, None] + edges * target_box[:, axis + 2, None, None]  # [B, 1, cells + 1]
    overlap = torch.minimum(edges[..., 1:], start + length) - torch.maximum(edges[..., :-1], start)
    return overlap.clamp(min=0) / (edges[..., 1:] - edges[..., :-1])


def object_coverage(objects: Tensor, target_box: Tensor, grid: tuple[int, int]) -> Tensor:
    """Say how much of each patch of a view the object lies on that covers it most.

    Args:
        objects: Boxes (top, left, height, width) in pixels of the picture, int64 [B, O, 4]; empty ones do not count.
        target_box: Place of the view: top, left, height, width, flip, int64 [B, 5].
        grid: Rows and columns of its patches.

    Returns:
        float64 [B, *grid] in [0, 1].
    """
    rows, columns = (_axis_shares(objects, target_box, grid, axis) for axis in (0, 1))
    covered = (rows[:, :, :, None] * columns[:, :, None, :]).amax(dim=1)  # [B, *grid]
    return torch.where(target_box[:, 4, None, None] > 0, covered.flip(2), covered)


def object_areas(objects: Tensor, target_box: Tensor, grid: tuple[int, int]) -> Tensor:
    """Say how much of the objects lies on each patch of a view; where objects overlap, the area counts for each.

    Args:
        objects: Boxes (top, left, height, width) in pixels of the picture, int64 [B, O, 4]; empty ones do not count.
        target_box: Place of the view: top, left, height, width, flip, int64 [B, 5].
        grid: Rows and columns of its patches.

    Returns:
        Areas in patches, float64 [B, *grid].
    """
    rows, columns = (_axis_shares(objects, target_box, grid, axis) for axis in (0, 1))
    areas = rows.transpose(1, 2) @ columns  # [B, *grid]
    return torch.where(target_box[:, 4, None, None] > 0, areas.flip(2), areas)


def share_on_kept(areas: Tensor, keep: Tensor) -> Tensor:
    """Return the share of the areas of each sample that lies on kept patches; NaN for a sample without any area.

    Args:
        areas: Of each patch, at least 0, [B, rows, columns].
        keep: Indices of the kept patches, int64 [B, K].

    Returns:
        [B], in [0, 1] or NaN.
    """
    areas = areas.flatten(1)
    return areas.gather(1, keep).sum(dim=1) / areas.sum(dim=1)


def map_entropy(scores: Tensor) -> Tensor:
    """Return the entropy of each map, taken as shares of its sum, over that of a uniform map.

    Args:
        scores: At least 0, [B, rows, columns].

    Returns:
        float64 [B]: 1 for a uniform map, 0 when one patch has everything, NaN for a map of one patch.
    """
    shares = scores.double().flatten(1)
    shares = shares / shares.sum(dim=1, keepdim=True)
    most = math.log(shares.shape[1]) or math.nan
    return torch.special.entr(shares).sum(dim=1) / most


def block_means(scores: Tensor, block: int) -> Tensor:
    """Average the scores of each square of ``block`` times ``block`` patches.

    Args:
        scores: [B, rows, columns], both a multiple of ``block``.
        block: Side in patches.

    Returns:
        [B, rows / block * columns / block], row by row.
    """
    return scores.unflatten(1, (-1, block)).unflatten(3, (-1, block)).mean(dim=(2, 4)).flatten(1)


def ranked_blocks(block_scores: Tensor, num_keep: int, lowest: bool = False) -> Tensor:
    """Choose the blocks with the highest scores, or the lowest ones.

    Of equal scores the smaller index counts as higher, so that the highest K and the lowest N - K are complements.

    Args:
        block_scores: [B, N].
        num_keep: K.
        lowest: Choose from the other end.

    Returns:
        Indices, int64 [B, K], unordered.
    """
    order = torch.argsort(block_scores, dim=1, descending=True, stable=True)
    return order[:, -num_keep:] if lowest else order[:, :num_keep]


def patches_of(blocks: Tensor, columns: int, block: int) -> Tensor:
    """Return the patches that make up blocks.

    Args:
        blocks: Indices of blocks, row by row, int64 [B, K].
        columns: Patches in a row.
        block: Side of a block in patches.

    Returns:
        Indices of patches in ascending order, int64 [B, K * block * block].
    """
    if block == 1:
        return blocks.sort(dim=1).values
    per_row = columns // block
    corner = blocks // per_row * (block * columns) + blocks % per_row * block
    step = torch.arange(block, device=blocks.device)
    inside = (step[:, None] * columns + step).flatten()
    return (corner[..., None] + inside).flatten(1).sort(dim=1).values
