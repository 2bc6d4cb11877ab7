"""Principal components of rows that are spread over ranks, from their covariance: exact, and [D, D] numbers at most."""

import torch
from torch import Tensor

from assets.clustering.rank_sums import blocks, sum_over_ranks


@torch.no_grad()
def principal_components(rows: Tensor, components: int) -> Tensor:
    """Project centred rows onto the directions in which all ranks' rows together vary most; without whitening.

    Args:
        rows: This rank's rows, float [n, D]. All ranks must call it together.
        components: How many directions, at most D.

    Returns:
        Coordinates, [n, components] in the rows' type. The largest entry of each direction is positive, which settles
        the sign.
    """
    width = rows.shape[1]
    sums = torch.zeros(width + 1, dtype=torch.float64, device=rows.device)
    for _, block in blocks(rows):
        sums[:width] += block.sum(dim=0, dtype=torch.float64)
    sums[width] = len(rows)
    sums = sum_over_ranks(sums)
    mean = sums[:width] / sums[width]
    covariance = torch.zeros(width, width, dtype=torch.float64, device=rows.device)
    for _, block in blocks(rows):
        centred = block.double() - mean
        covariance += centred.T @ centred
    directions = torch.linalg.eigh(sum_over_ranks(covariance)).eigenvectors.flip(1)[:, :components]  # [D, components]
    largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
    directions = directions * largest.sign()
    # centring after the product saves a float64 copy of the rows
    return rows @ directions.to(rows.dtype) - (mean @ directions).to(rows.dtype)
