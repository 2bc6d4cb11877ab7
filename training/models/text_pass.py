"""Run the text tower no further than the longest caption of the batch.

CLIP's text tower is causal and pools at the end token, so nothing that comes after it, which is padding, can reach the
feature: cutting it is exact. Captions on the web have some 10 words where the context has room for 77 tokens.
"""

from typing import Any, NamedTuple

from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transformer import TextTransformer, text_global_pool
from torch import Tensor, nn

_PADDING = 0  # of SimpleTokenizer, which no caption ends with: its end token, 49407, is the largest id


class _CausalText(NamedTuple):
    """A causal text tower: the module that holds its parts, how it pools, and its end token."""

    tower: Any
    pool_type: str
    end_id: int


def trim_text(text: Tensor, multiple: int = 8) -> Tensor:
    """Cut the columns that are padding in every row; for the loader, on the CPU.

    Args:
        text: Token ids padded with zeros at the end, int64 [B, T].
        multiple: The length is rounded up to one of these, so that a compiled tower meets few lengths.

    Returns:
        Token ids, int64 [B, T'] with 1 <= T' <= T. Ids padded with anything but zero come back whole.
    """
    used = (text != _PADDING).any(dim=0).nonzero()
    longest = int(used.max()) + 1 if len(used) else 1
    return text[:, : -(-longest // multiple) * multiple].contiguous()


def accepts_short_text(model: nn.Module) -> bool:
    """Say whether :func:`encode_text` gives the same features for trimmed text; True only where that is certain.

    Args:
        model: A model of open_clip.
    """
    return _causal_text(model) is not None


def encode_text(model: nn.Module, text: Tensor) -> Tensor:
    """Compute what ``model.encode_text`` does, also for text that :func:`trim_text` has shortened.

    Args:
        model: A model of open_clip.
        text: Token ids, int64 [B, T]; T is the context, or less for a model that accepts it
            (:func:`accepts_short_text`).

    Returns:
        Text features, projected, not normalised, [B, D].
    """
    causal = _causal_text(model)
    if causal is None:
        whole: Any = model
        return whole.encode_text(text)
    tower, length = causal.tower, text.shape[1]
    dtype = tower.transformer.get_cast_dtype()
    x = tower.token_embedding(text).to(dtype)  # [B, T, W]
    x = x + tower.positional_embedding[:length].to(dtype)
    x = tower.ln_final(tower.transformer(x, attn_mask=tower.attn_mask[:length, :length]))
    pooled = text_global_pool(x, text, causal.pool_type, eos_token_id=causal.end_id)  # [B, W]
    projection = tower.text_projection
    if projection is None:
        return pooled
    return projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection


def _causal_text(model: nn.Module) -> _CausalText | None:
    """Find a model's text tower if it is one whose features cannot depend on padding, else return None."""
    whole: Any = model
    # by method and not by exact class, because sharding parameters changes the class
    if isinstance(model, CLIP) and type(model).encode_text is CLIP.encode_text:
        text = _CausalText(whole, whole.text_pool_type, whole.text_eos_id)
    elif isinstance(model, CustomTextCLIP) and isinstance(whole.text, TextTransformer):
        text = _CausalText(whole.text, whole.text.pool_type, whole.text.eos_id)
        # a class token stands behind the padding and sees it; a pair with the token features is not ours to give
        if whole.text.cls_emb is not None or whole.text.output_tokens:
            return None
    else:
        return None
    # a tower with room for a class token has a position more than its context
    causal = text.tower.attn_mask is not None and len(text.tower.positional_embedding) == text.tower.context_length
    # the largest id and a named one are still there after trimming, unless the name is the padding's
    ends = text.pool_type == "argmax" or (text.pool_type == "eos" and text.end_id != _PADDING)
    return text if causal and ends else None
