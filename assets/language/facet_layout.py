"""One sequence for all facets of a caption: who may see whom, at which positions, and where each facet is read off.

A sequence is the prefix (wrapper and caption) and the facets back to back, padded on the right. A token sees the tokens
before it that belong to the prefix or to its own facet, so no facet knows of another and one pass equals one pass per
facet. Letters beyond the legend: S tokens of the padded sequence, F facets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

Positions = Literal["reset", "contiguous"]
"""``reset``: every facet starts where the prefix ends. ``contiguous``: where the facet before it ends."""

PADDING = -1
"""Segment of padding; 0 is the prefix, f + 1 is facet f."""


@dataclass(frozen=True, slots=True)
class FacetLayout:
    """A batch of sequences.

    Attributes:
        token_ids: int64, 0 at padding, [B, S].
        segment: int64, [B, S].
        positions: int64, 0 at padding, [B, S].
        pool_index: Place of the last token of each facet, int64 [B, F].
    """

    token_ids: Tensor
    segment: Tensor
    positions: Tensor
    pool_index: Tensor


def facet_starts(facet_lengths: Sequence[int], positions: Positions) -> list[int]:
    """Return the position of the first token of each facet, counted from the end of the prefix."""
    if positions == "reset":
        return [0] * len(facet_lengths)
    return list(accumulate(facet_lengths, initial=0))[:-1]


def lay_out(prefixes: Sequence[Sequence[int]], facets: Sequence[Sequence[int]], positions: Positions) -> FacetLayout:
    """Put the facets behind every prefix.

    Args:
        prefixes: Token ids of each caption in its wrapper, none empty.
        facets: Token ids of each facet, the same for all captions, none empty.
        positions: How facets are counted.

    Returns:
        The batch, on the CPU.
    """
    lengths = [len(facet) for facet in facets]
    starts = facet_starts(lengths, positions)
    tail = torch.tensor([token for facet in facets for token in facet])
    tail_segment = torch.repeat_interleave(torch.arange(1, len(facets) + 1), torch.tensor(lengths))
    tail_steps = torch.cat([start + torch.arange(length) for start, length in zip(starts, lengths, strict=True)])
    prefix_lengths = torch.tensor([len(prefix) for prefix in prefixes])  # [B]
    size = (len(prefixes), int(prefix_lengths.max()) + len(tail))
    token_ids, at = torch.zeros(size, dtype=torch.int64), torch.zeros(size, dtype=torch.int64)
    segment = torch.full(size, PADDING)
    for row, prefix in enumerate(prefixes):
        begin, end = len(prefix), len(prefix) + len(tail)
        token_ids[row, :begin], token_ids[row, begin:end] = torch.tensor(prefix), tail
        segment[row, :begin], segment[row, begin:end] = 0, tail_segment
        at[row, :begin], at[row, begin:end] = torch.arange(begin), begin + tail_steps
    pool_index = prefix_lengths[:, None] + torch.tensor(lengths).cumsum(0) - 1
    return FacetLayout(token_ids, segment, at, pool_index)


def allowed_pairs(segment: Tensor) -> Tensor:
    """Return which token may see which.

    Args:
        segment: Of each token, padding on any side, [B, S].

    Returns:
        True where the token of the row may see the token of the column, [B, S, S]; padding sees itself only, since a
        softmax over nothing is not finite.
    """
    length = segment.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segment.device).tril()
    query, key = segment[:, :, None], segment[:, None, :]
    seen = (key == 0) | (key == query)
    itself = torch.eye(length, dtype=torch.bool, device=segment.device)
    return causal & seen & (query >= 0) & (key >= 0) | itself


def additive_mask(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the mask that attention adds to its scores.

    Args:
        allowed: True where a query may see a key, [B, queries, keys].
        dtype: Of the model.

    Returns:
        0 where allowed and the lowest finite number elsewhere, [B, 1, queries, keys]. A bool mask would be added as
        0 and 1 by eager attention.
    """
    lowest = torch.finfo(dtype).min
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, lowest)[:, None]


def num_allowed_pairs(prefix_length: int, facet_lengths: Sequence[int]) -> int:
    """Return how many pairs of tokens attention compares in one sequence without padding."""
    own = sum(length * prefix_length + length * (length + 1) // 2 for length in facet_lengths)
    return prefix_length * (prefix_length + 1) // 2 + own
