"""Which image tokens a sample keeps: settings of all kinds, and the random choice by a number of the sample's own.

Batch, rank and device do not enter. Random dropping is what FLIP (arXiv 2212.00794) trains with; A-CLIP (arXiv
2212.08653) keeps what an averaged image tower attends to (``models/score_map.py``).
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from assets.section import Section

# SplitMix64's finaliser (Steele, Lea, Flood 2014), its unsigned constants as the int64 of the same bits
_MULTIPLIERS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)
_ROUNDING = 1e-6  # 0.57 * 100 is a hair below 57 in floating point
_MANTISSA_BITS = 24  # what a float32 below 1 holds exactly


class NoMasking(Section):
    """Towers see every image token."""

    kind: Literal["none"]


class BlockMasking(Section):
    """What all ways of dropping share: how much stays, in which units, and until when."""

    keep: float = Field(default=0.5, gt=0, le=1)
    """Share of the blocks that stay; the class token always stays."""
    block: int = Field(default=1, ge=1)
    """Side in patches of the squares that stay or go together; the patches of a row and of a column are a multiple."""
    rounding: Literal["down", "plus_one"] = "down"
    """Whole blocks: rounded down, or one more than that, as A-CLIP was published."""
    unmasked_tail: float = Field(default=0, ge=0, lt=1)
    """Share of the budget, at its end, that trains on all patches; it brings the tower near to what evaluation does."""


class RandomMasking(BlockMasking):
    """In training the image tower sees a random part of the patches, another one for each sample and epoch."""

    kind: Literal["random"]


class AttentiveMasking(BlockMasking):
    """The image tower sees the blocks that the averaged tower attends to most; or, as a control, least."""

    kind: Literal["attentive", "inverse"]
    block: int = Field(default=2, ge=1)
    rounding: Literal["down", "plus_one"] = "plus_one"


class OracleMasking(BlockMasking):
    """The image tower sees the blocks that objects cover most, by the ground truth: what attention can hope to find."""

    kind: Literal["oracle"]
    block: int = Field(default=2, ge=1)
    rounding: Literal["down", "plus_one"] = "plus_one"


class EmaTowerConfig(Section):
    """An averaged copy of the image tower, for maskings and methods that need one."""

    momentum: float = Field(default=0.996, ge=0, lt=1)
    """At the start; it rises to 1 along a cosine."""
    shrink: int = Field(default=1, ge=1)
    """How many times smaller its view is than the others; 2 costs a quarter (A-CLIP-eff)."""


Masking = NoMasking | RandomMasking | AttentiveMasking | OracleMasking


def num_kept(num_tokens: int, keep_share: float) -> int:
    """Return how many of ``num_tokens`` patches a share keeps: rounded down, at least one."""
    return max(1, math.floor(num_tokens * keep_share + _ROUNDING))


def num_blocks_kept(masking: BlockMasking, num_patches: int) -> int:
    """Return how many blocks of an image of ``num_patches`` patches stay, at least one and at most all."""
    blocks = num_patches // masking.block**2
    if masking.rounding == "plus_one":
        return min(math.floor(blocks * masking.keep + _ROUNDING) + 1, blocks)
    return num_kept(blocks, masking.keep)


def uniform_from_seeds(seed: Tensor, count: int, stream: int) -> Tensor:
    """Draw numbers that depend on nothing but (seed, position, stream), by hashing all three.

    Args:
        seed: One number per sample, int64 [B].
        count: Draws per sample.
        stream: Tells draws for different purposes apart, e.g. the number of the view.

    Returns:
        Draws in [0, 1), float32 [B, count], the same on every device.
    """
    start = _mix(_mix(seed) + (stream + 1))  # [B]; one more, because zero hashes to zero
    # only small numbers are added: compilers treat a multiple of arange as an index and let it overflow
    bits = _mix(start[:, None] + torch.arange(count, device=seed.device))  # [B, count]
    return _shift_right(bits, 64 - _MANTISSA_BITS).float() * 2.0**-_MANTISSA_BITS


def random_keep(seed: Tensor, num_tokens: int, num_keep: int, stream: int = 0) -> Tensor:
    """Choose patches uniformly without replacement: those with the smallest draws.

    Args:
        seed: One number per sample, int64 [B].
        num_tokens: Patches of an image, N.
        num_keep: Patches that stay, K, at most N.
        stream: See :func:`uniform_from_seeds`.

    Returns:
        Patch indices in ascending order, int64 [B, K].
    """
    draws = uniform_from_seeds(seed, num_tokens, stream)
    # stable, because two of the draws can be equal and devices would then disagree
    order = torch.argsort(draws, dim=1, stable=True)
    return order[:, :num_keep].sort(dim=1).values


def _shift_right(bits: Tensor, places: int) -> Tensor:
    """Shift int64 as if it were unsigned: torch's own shift copies the sign bit."""
    return (bits >> places) & ((1 << (64 - places)) - 1)


def _mix(bits: Tensor) -> Tensor:
    """Apply SplitMix64's finaliser, a bijection of the 64-bit numbers; products wrap around."""
    bits = (bits ^ _shift_right(bits, 30)) * _MULTIPLIERS[0]
    bits = (bits ^ _shift_right(bits, 27)) * _MULTIPLIERS[1]
    return bits ^ _shift_right(bits, 31)
