"""Three ways to the same embeddings of a caption's facets: one masked pass, a shared prefix, or a pass per facet.

With a prefix of L tokens and F facets of M tokens together, ``mask`` and ``kv`` run L + M tokens through the model and
``separate`` runs F L + M. ``mask`` is one pass; ``kv`` keeps the prefix's keys and values and needs memory for F copies
of them; ``separate`` uses the model's own causal mask and is what the others are tested against.
"""

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from assets.language.decoder import Decoder
from assets.language.facet_layout import Positions, additive_mask, allowed_pairs, facet_starts, lay_out

Strategy = Literal["mask", "kv", "separate"]
TokenIds: TypeAlias = Sequence[Sequence[int]]


def by_mask(decoder: Decoder, prefixes: TokenIds, facets: TokenIds, positions: Positions) -> Tensor:
    """Run prefix and facets as one sequence under the mask of :func:`~assets.language.facet_layout.allowed_pairs`.

    Args:
        decoder: The model.
        prefixes: Token ids of each caption in its wrapper.
        facets: Token ids of each facet.
        positions: How facets are counted.

    Returns:
        Hidden state of the last token of each facet, in the model's type, [B, F, W].
    """
    layout = lay_out(prefixes, facets, positions)
    mask = additive_mask(allowed_pairs(layout.segment.to(decoder.device)), decoder.dtype)
    hidden = decoder(layout.token_ids.to(decoder.device), mask, layout.positions.to(decoder.device))  # [B, S, W]
    return _pick(hidden, layout.pool_index.to(decoder.device))


def by_cache(decoder: Decoder, prefixes: TokenIds, facets: TokenIds, positions: Positions) -> Tensor:
    """Run the prefixes once, then all facets as a batch of continuations; arguments and result as :func:`by_mask`."""
    from transformers import DynamicCache

    past, num_facets = DynamicCache(), len(facets)
    prefix, prefix_there = _padded(prefixes, decoder.device)
    at = torch.arange(prefix.shape[1], device=decoder.device).expand_as(prefix)
    decoder(prefix, _causal(prefix_there, 0, decoder.dtype), at, past)
    past.batch_repeat_interleave(num_facets)

    tail, tail_there = _padded(facets, decoder.device)  # [F, m]
    starts = torch.tensor(facet_starts([len(facet) for facet in facets], positions), device=decoder.device)
    steps = starts[:, None] + torch.arange(tail.shape[1], device=decoder.device)  # [F, m]
    at = (prefix_there.sum(dim=1)[:, None, None] + steps).flatten(0, 1)  # [B F, m]
    repeated = prefix_there.repeat_interleave(num_facets, dim=0)
    there = torch.cat([repeated, tail_there.repeat(len(prefixes), 1)], dim=1)  # [B F, L + m]
    hidden = decoder(tail.repeat(len(prefixes), 1), _causal(there, prefix.shape[1], decoder.dtype), at, past)
    last = (tail_there.sum(dim=1) - 1).repeat(len(prefixes))
    return _pick(hidden, last[:, None]).unflatten(0, (len(prefixes), num_facets)).squeeze(2)


def separately(decoder: Decoder, prefixes: TokenIds, facets: TokenIds, positions: Positions) -> Tensor:
    """Run the prefix once for every facet under the model's own mask; arguments and result as :func:`by_mask`."""
    starts = facet_starts([len(facet) for facet in facets], positions)
    pooled: list[Tensor] = []
    for facet, start in zip(facets, starts, strict=True):
        layout = lay_out(prefixes, [facet], "reset")
        at = layout.positions + start * (layout.segment == 1)
        there = (layout.segment >= 0).long()
        hidden = decoder(*(part.to(decoder.device) for part in (layout.token_ids, there, at)))
        pooled.append(_pick(hidden, layout.pool_index.to(decoder.device)))
    return torch.cat(pooled, dim=1)


STRATEGIES: dict[Strategy, Callable[[Decoder, TokenIds, TokenIds, Positions], Tensor]] = {
    "mask": by_mask,
    "kv": by_cache,
    "separate": separately,
}


def num_tokens(strategy: Strategy, prefix_length: int, facet_lengths: Sequence[int]) -> int:
    """Return how many tokens one caption sends through the model, padding left out."""
    prefixes = len(facet_lengths) if strategy == "separate" else 1
    return prefixes * prefix_length + sum(facet_lengths)


def _pick(hidden: Tensor, index: Tensor) -> Tensor:
    """Take the states at ``index`` [B, F] out of ``hidden`` [B, T, W]."""
    return hidden.gather(1, index[:, :, None].expand(-1, -1, hidden.shape[2]))


def _padded(sequences: TokenIds, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return token ids padded on the right and where there are tokens, both [B, T]."""
    rows = [torch.tensor(sequence) for sequence in sequences]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    there = torch.arange(ids.shape[1]) < lengths[:, None]
    return ids.to(device), there.to(device)


def _causal(there: Tensor, num_past: int, dtype: torch.dtype) -> Tensor:
    """Return the additive causal mask of the queries after ``num_past`` keys, of which ``there`` [B, keys] exist."""
    keys = torch.arange(there.shape[1], device=there.device)
    return additive_mask(there[:, None, :] & (keys <= keys[num_past:, None]), dtype)
