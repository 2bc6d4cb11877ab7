"""Run a tower under gates, before it is cut down to what they keep (TinyCLIP, Wu et al. 2023, arXiv 2309.12314).

With gates z on the width, heads and MLP units of a layer, * entry by entry,

    x <- x + z_width * (W_out (z_head * head outputs) + b_out),  x <- x + z_width * (W_proj (z_unit * units) + b_proj),

after a stem whose output is multiplied by z_width. A LayerNorm takes its statistics over the dims with z != 0, is 0 on
the others, and is not multiplied by z; nor is the last one, so the projection sees what the norm gives.

The gates of a layer are multiplied into the weights of its two output projections, not into activations: the same sums
and gradients, at the cost of one pass over weights instead of over all tokens. :mod:`training.models.compaction` picks
from just these weights, which makes a cut tower compute what the gated one did.

A tower that was cut earlier has fewer heads and units in some layers; its gates are the leading ones of each row.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from open_clip.model import CLIP
from open_clip.transformer import ResidualAttentionBlock, TextTransformer, Transformer, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from assets.errors import ConfigError, message
from training.models.gates import GateValues, KeptCounts, TowerSizes


class LayerGates(NamedTuple):
    """The gates that one layer sees.

    Attributes:
        hidden: Of the residual stream, [W].
        heads: Of this layer, [H].
        units: Of this layer's MLP, [F].
    """

    hidden: Tensor
    heads: Tensor
    units: Tensor


class OutputWeights(NamedTuple):
    """The output projections of a layer's two branches; a branch with nothing left has its bias only.

    Attributes:
        attention: [W, H * head width] or None.
        attention_bias: [W].
        mlp: [W, F] or None.
        mlp_bias: [W].
    """

    attention: Tensor | None
    attention_bias: Tensor
    mlp: Tensor | None
    mlp_bias: Tensor


def gated_image_features(visual: nn.Module, image: Tensor, gates: GateValues) -> Tensor:
    """Run an image tower under gates, with gradients for both.

    Args:
        visual: An image tower, see :func:`tower_counts`.
        image: Normalised pixels, [B, 3, S, S].
        gates: In [0, 1]; with ones this is the tower's own forward.

    Returns:
        Image features, projected, not normalised, [B, D].

    Raises:
        ConfigError: The tower cannot have gates, or they are not of its shapes.
    """
    counts = check_gates(visual, gates)
    tower: Any = visual
    x = tower.conv1(image).flatten(2).transpose(1, 2)  # [B, N, W]
    x = torch.cat([tower.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
    x = x + tower.positional_embedding.to(x.dtype)
    x = gated_norm(tower.ln_pre, _scaled(x, gates.hidden), gates.hidden)
    x = _gated_layers(tower, x, gates, counts, causal=False)
    # tokens are normed one by one, so only the pooled one has to be
    return gated_norm(tower.ln_post, x[:, 0], gates.hidden) @ tower.proj


def gated_text_features(model: nn.Module, text: Tensor, gates: GateValues) -> Tensor:
    """Run a text tower under gates, with gradients for both.

    Args:
        model: A text tower, see :func:`tower_counts`.
        text: Token ids, the end token the largest, int64 [B, T]; T is the context, or less for trimmed text.
        gates: In [0, 1]; with ones this is the tower's own forward.

    Returns:
        Text features, projected, not normalised, [B, D].

    Raises:
        ConfigError: The tower cannot have gates, or they are not of its shapes.
    """
    counts = check_gates(model, gates)
    tower: Any = model
    dtype = tower.transformer.get_cast_dtype()
    x = tower.token_embedding(text).to(dtype) + tower.positional_embedding[: text.shape[1]].to(dtype)  # [B, T, W]
    x = _gated_layers(tower, _scaled(x, gates.hidden), gates, counts, causal=True)
    pooled = x[torch.arange(len(x), device=x.device), text.argmax(dim=-1)]  # [B, W]
    return gated_norm(tower.ln_final, pooled, gates.hidden) @ tower.text_projection


def gated_block(block: nn.Module, x: Tensor, gates: LayerGates, causal: bool = False) -> Tensor:
    """Run one layer under gates.

    Args:
        block: A block of a tower that :func:`tower_counts` accepts.
        x: Tokens, 0 where the width's gates are, [B, T, W].
        gates: Of this layer.
        causal: Whether a token sees itself and earlier ones only.

    Returns:
        Tokens, again 0 where the width's gates are, [B, T, W].
    """
    norm = partial(gated_norm, hidden=gates.hidden)
    return run_block(block, x, fold(block, gates), norm, causal=causal)


def gated_norm(norm: nn.Module, x: Tensor, hidden: Tensor) -> Tensor:
    """Apply a LayerNorm to the dims whose gates are not closed.

    Args:
        norm: With scale and bias, [W].
        x: Tokens, [..., W]; those of closed dims have no effect and get no gradient.
        hidden: Gates of the width, [W]; only whether they are 0 matters here.

    Returns:
        Same shape and dtype, 0 where the gates are.
    """
    layer: Any = norm
    # sums over a half-precision row would lose digits that torch's own layer_norm keeps
    precise = torch.promote_types(x.dtype, torch.float32)
    is_open = (hidden != 0).to(precise)
    exact = x.to(precise) * is_open
    num_open = is_open.sum().clamp(min=1)
    centred = (exact - exact.sum(dim=-1, keepdim=True) / num_open) * is_open
    variance = centred.square().sum(dim=-1, keepdim=True) / num_open
    normed = torch.addcmul(layer.bias * is_open, centred * (variance + layer.eps).rsqrt(), layer.weight)
    return normed.to(x.dtype)


def fold(block: nn.Module, gates: LayerGates) -> OutputWeights:
    """Multiply the gates of a layer into its output projections, with gradients for both.

    Args:
        block: A block of a tower that :func:`tower_counts` accepts.
        gates: Of this layer.
    """
    layer: Any = block
    attention = mlp = None
    if layer.attn.num_heads:
        channels = gates.heads.repeat_interleave(layer.attn.head_dim)  # [H * head width]
        attention = _scaled(layer.attn.out_proj.weight, gates.hidden[:, None] * channels)
    if count_units(block):
        mlp = _scaled(layer.mlp.c_proj.weight, gates.hidden[:, None] * gates.units)
    attention_bias = _scaled(layer.attn.out_proj.bias, gates.hidden)
    return OutputWeights(attention, attention_bias, mlp, _scaled(layer.mlp.c_proj.bias, gates.hidden))


def run_block(
    block: nn.Module,
    x: Tensor,
    output: OutputWeights,
    norm: Callable[[nn.Module, Tensor], Tensor],
    causal: bool = False,
    attn_mask: Tensor | None = None,
) -> Tensor:
    """Run one layer with these output projections in place of its own.

    Args:
        block: A block of a tower that :func:`tower_counts` accepts.
        x: Tokens, [B, T, W].
        output: The output projections.
        norm: Applies one of the block's norms.
        causal: Whether a token sees itself and earlier ones only.
        attn_mask: As of torch's attention, or None; goes without ``causal``.

    Returns:
        Tokens, [B, T, W].
    """
    layer: Any = block
    if output.attention is None:
        x = x + output.attention_bias
    else:
        heads = _attend(layer.attn, norm(layer.ln_1, x), causal, attn_mask)
        x = x + functional.linear(heads, output.attention, output.attention_bias)
    if output.mlp is None:
        return x + output.mlp_bias
    units = layer.mlp.gelu(layer.mlp.c_fc(norm(layer.ln_2, x)))  # [B, T, F]
    return x + functional.linear(units, output.mlp, output.mlp_bias)


def count_units(block: nn.Module) -> int:
    """Count the MLP units of a block."""
    layer: Any = block
    return 0 if layer.mlp.c_fc is None else layer.mlp.c_fc.out_features


def tower_counts(tower: nn.Module) -> KeptCounts:
    """Count the width, heads and MLP units of a tower.

    Args:
        tower: open_clip's VisionTransformer for images; its CLIP, for the text side, or its TextTransformer for texts;
            or what :func:`training.models.compaction.build_tower` gives. A plain CLIP tower, that is: a class or end
            token is pooled, each layer is norm, attention, norm, MLP, and the text tower is causal.

    Raises:
        ConfigError: The tower is none of these, or not a plain one.
    """
    oddity = _oddity(tower)
    if oddity:
        fix = "use a plain CLIP tower, or inherit with a fixed rule instead of gates"
        raise ConfigError(message("this tower cannot have gates", oddity, fix=fix))
    any_tower: Any = tower
    blocks = any_tower.transformer.resblocks
    heads: list[int] = [block.attn.num_heads for block in blocks]
    return KeptCounts(any_tower.transformer.width, tuple(heads), tuple(count_units(block) for block in blocks))


def tower_sizes(tower: nn.Module) -> TowerSizes:
    """Read the sizes that :class:`training.models.gates.TowerGates` wants to know.

    Args:
        tower: See :func:`tower_counts`; before anything was cut, because what was cut away cannot be seen in it.

    Raises:
        ConfigError: The tower cannot have gates.
    """
    counts = tower_counts(tower)
    return TowerSizes(len(counts.heads), max(counts.heads), counts.hidden, max(counts.units))


def check_gates(tower: nn.Module, gates: GateValues) -> KeptCounts:
    """Check that gates are of a tower's shapes.

    Args:
        tower: See :func:`tower_counts`.
        gates: For all its layers. A tower that was cut has its gates first in each row, and any number after them.

    Returns:
        The tower's counts.

    Raises:
        ConfigError: The tower cannot have gates, or they are not of its shapes.
    """
    counts = tower_counts(tower)
    any_tower: Any = tower
    uncut = isinstance(any_tower.transformer, Transformer)
    got = [tuple(values.shape) for values in gates]
    layers, most_heads, most_units = len(counts.heads), max(counts.heads), max(counts.units)
    fits = got[0] == (counts.hidden,) and all(len(shape) == 2 and shape[0] == layers for shape in got[1:])
    for shape, most in zip(got[1:], (most_heads, most_units), strict=True):
        fits = fits and (shape[1] == most if uncut else shape[1] >= most)
    if not fits:
        wanted = [(counts.hidden,), (layers, most_heads), (layers, most_units)]
        least = "" if uncut else ", or longer rows"
        fix = "make the gates for this very tower"
        raise ConfigError(message("gates (width, heads, units) do not fit the tower", got, f"{wanted}{least}", fix))
    return counts


def layer_gates(gates: GateValues, counts: KeptCounts, layer: int) -> LayerGates:
    """Pick the gates of one layer.

    Args:
        gates: Of the tower.
        counts: Of the tower, from :func:`check_gates`.
        layer: From 0.
    """
    heads, units = gates.heads[layer, : counts.heads[layer]], gates.units[layer, : counts.units[layer]]
    return LayerGates(gates.hidden, heads, units)


def _gated_layers(tower: Any, x: Tensor, gates: GateValues, counts: KeptCounts, causal: bool) -> Tensor:
    for index, block in enumerate(tower.transformer.resblocks):
        own = layer_gates(gates, counts, index)
        if tower.transformer.grad_checkpointing and torch.is_grad_enabled():
            again: Any = checkpoint(gated_block, block, x, own, causal, use_reentrant=False)
            x = again
        else:
            x = gated_block(block, x, own, causal)
    return x


def _attend(attention: Any, x: Tensor, causal: bool, attn_mask: Tensor | None) -> Tensor:
    """Compute the outputs of all heads, [B, T, H * head width]; H of them, which need not fill the width."""
    qkv = functional.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = qkv.unflatten(-1, (3, attention.num_heads, attention.head_dim)).permute(2, 0, 3, 1, 4)  # [B, H, T, h]
    mask = None if attn_mask is None else attn_mask.to(q.dtype)
    heads = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    return heads.transpose(1, 2).flatten(2)


def _scaled(values: Tensor, gates: Tensor) -> Tensor:
    """Multiply by gates, and keep the dtype also when that is less precise than the gates'."""
    return (values * gates).to(values.dtype)


def _oddity(tower: nn.Module) -> str | None:
    """Say what keeps a tower from having gates, or return None."""
    any_tower: Any = tower
    if isinstance(tower, VisionTransformer):
        plain = any_tower.attn_pool is None and any_tower.pool_type == "tok" and any_tower.proj is not None
        plain = (
            plain and isinstance(any_tower.patch_dropout, nn.Identity) and isinstance(any_tower.ln_pre, nn.LayerNorm)
        )
        oddity = "" if plain else "an image tower with another pooling, with patch_dropout, or without ln_pre or proj"
    elif isinstance(tower, CLIP | TextTransformer):
        pool_type = any_tower.text_pool_type if isinstance(tower, CLIP) else any_tower.pool_type
        plain = pool_type == "argmax" and any_tower.attn_mask is not None
        plain = plain and getattr(tower, "cls_emb", None) is None
        plain = plain and isinstance(any_tower.text_projection, Tensor)
        oddity = "" if plain else "a text tower that is not causal, pools otherwise, or has another projection"
    else:
        return type(tower).__name__
    blocks = any_tower.transformer.resblocks
    if isinstance(any_tower.transformer, Transformer) and not all(_is_plain(block) for block in blocks):
        oddity = "a tower with custom blocks or layer scale"
    return oddity or None


def _is_plain(block: Any) -> bool:
    if not isinstance(block, ResidualAttentionBlock):
        return False
    return isinstance(block.ls_1, nn.Identity) and isinstance(block.ls_2, nn.Identity)
