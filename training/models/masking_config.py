"""Settings of what the image tower sees in training, and how many patches that is.

Every command reads them, so this file does without torch, which takes seconds to import. Random dropping is what FLIP
(arXiv 2212.00794) trains with; A-CLIP (arXiv 2212.08653) keeps what an averaged image tower attends to.
"""

import math
from typing import Literal

from pydantic import Field

from assets.section import Section

_ROUNDING = 1e-6  # 0.57 * 100 is a hair below 57 in floating point


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
    watch: bool = False
    """Add curves of how much of the objects the masks keep, by the ground truth; training itself stays as it is."""


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
