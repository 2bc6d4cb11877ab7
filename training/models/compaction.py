"""Cut a tower down to what its gates keep, into a dense one that computes the same (TinyCLIP, Wu et al. 2023).

With z of :mod:`training.models.gated_tower` and what has z = 0 left out everywhere:

    embeddings, class token, positions: columns * z_width          norms, queries, keys, values, c_fc: as they are
    out_proj: rows * z_width, columns * z_head, bias * z_width     c_proj: rows * z_width, columns * z_unit, bias alike
    last projection: rows, as they are

What is left has one width, but heads and MLP units by layer, and heads of the old width, so that attention inside may
be narrower or wider than the tower. The dims say all that is needed to build it again: :func:`build_tower` wants no
original tower.

Where we differ from the published code (arXiv 2309.12314): it multiplies the last projection by the gates, although
the gated tower does not, and drops the output bias of a layer that has lost all heads, although the gated tower adds
it. Here both towers agree to rounding, also with such layers. And attention stays fused.
"""

from functools import partial
from typing import Annotated, Any, Literal, NamedTuple, cast

import torch
from open_clip.model import CLIP
from open_clip.transformer import LayerNorm, QuickGELU, TextTransformer, VisionTransformer
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from assets.errors import ConfigError, message
from training.models.gated_tower import (
    LayerGates,
    OutputWeights,
    check_gates,
    fold,
    layer_gates,
    run_block,
)
from training.models.gates import GateValues

_Count = Annotated[int, Field(ge=0)]
_Size = Annotated[int, Field(ge=1)]
_ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "quick_gelu": QuickGELU}


class TransformerDims(BaseModel):
    """What the layers of a cut tower are.

    Attributes:
        width: Of the residual stream.
        head_width: Channels per head, the same everywhere.
        heads: Of each layer; 0 leaves the bias of its attention.
        units: Of each layer's MLP; 0 leaves the bias of its MLP.
        embed_dim: Of the joint space.
        activation: Of the MLPs.
        eps: Of the norms.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    width: _Size
    head_width: _Size
    heads: Annotated[tuple[_Count, ...], Field(min_length=1)]
    units: Annotated[tuple[_Count, ...], Field(min_length=1)]
    embed_dim: _Size
    activation: Literal["gelu", "quick_gelu"]
    eps: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _same_layers(self) -> "TransformerDims":
        if len(self.heads) != len(self.units):
            counts = f"{len(self.heads)} and {len(self.units)}"
            raise ValueError(message("heads and units are not of as many layers", counts, "one number each per layer"))
        return self


class ImageDims(TransformerDims):
    """A cut image tower.

    Attributes:
        kind: ``image``.
        image_size: Height and width in pixels.
        patch_size: Height and width in pixels.
    """

    kind: Literal["image"] = "image"
    image_size: tuple[_Size, _Size]
    patch_size: tuple[_Size, _Size]


class TextDims(TransformerDims):
    """A cut text tower.

    Attributes:
        kind: ``text``.
        context_length: In tokens.
        vocab_size: Number of token ids.
    """

    kind: Literal["text"] = "text"
    context_length: _Size
    vocab_size: _Size


_READER: TypeAdapter[ImageDims | TextDims] = TypeAdapter(Annotated[ImageDims | TextDims, Field(discriminator="kind")])


class Compacted(NamedTuple):
    """A tower that was cut down.

    Attributes:
        tensors: State dict for :func:`build_tower`, names as in open_clip's towers; shares no memory with the original.
        dims: As JSON by ``dims.model_dump(mode="json")``, and back by :func:`read_dims`.
    """

    tensors: dict[str, Tensor]
    dims: ImageDims | TextDims


class _CompactAttention(nn.Module):
    """The weights of attention whose heads need not fill the width; without heads, a bias."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, head_width
        inner = heads * head_width
        self.in_proj_weight = nn.Parameter(torch.randn(3 * inner, width) * width**-0.5) if heads else None
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * inner)) if heads else None
        self.out_proj = _linear_or_bias(inner, width)


class _CompactMlp(nn.Module):
    """The weights of an MLP; without units, a bias."""

    def __init__(self, width: int, units: int, activation: str) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, units) if units else None
        self.gelu = _ACTIVATIONS[activation]()
        self.c_proj = _linear_or_bias(units, width)


class CompactBlock(nn.Module):
    """A layer with heads and MLP units of its own number, named as in open_clip's.

    Norms that nothing reads are left out: all parameters get a gradient, as distributed training wants it.
    """

    def __init__(self, dims: TransformerDims, layer: int, causal: bool) -> None:
        """Build with random weights, to be loaded.

        Args:
            dims: Of the tower.
            layer: From 0.
            causal: Whether a token sees itself and earlier ones only.
        """
        super().__init__()
        heads, units = dims.heads[layer], dims.units[layer]
        self.causal = causal
        self.ln_1 = LayerNorm(dims.width, eps=dims.eps) if heads else None
        self.attn = _CompactAttention(dims.width, heads, dims.head_width)
        self.ln_2 = LayerNorm(dims.width, eps=dims.eps) if units else None
        self.mlp = _CompactMlp(dims.width, units, dims.activation)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Run the layer.

        Args:
            x: Tokens, [B, T, W].
            attn_mask: As of torch's attention; not needed by a causal layer, which has its own.

        Returns:
            Tokens, [B, T, W].
        """
        attention: Any = self.attn.out_proj
        mlp: Any = self.mlp.c_proj
        output = OutputWeights(attention.weight, attention.bias, mlp.weight, mlp.bias)
        mask = None if self.causal else attn_mask
        return run_block(self, x, output, lambda norm, tokens: norm(tokens), self.causal, mask)


class CompactTransformer(nn.Module):
    """The layers of a cut tower, in the place of open_clip's ``Transformer``.

    Attributes:
        width: Of the residual stream.
        layers: How many.
        resblocks: The layers.
        grad_checkpointing: Whether to compute activations again in the backward pass, instead of keeping them.
    """

    def __init__(self, dims: TransformerDims, causal: bool) -> None:
        """Build with random weights, to be loaded.

        Args:
            dims: Of the tower.
            causal: Whether a token sees itself and earlier ones only.
        """
        super().__init__()
        self.width, self.layers = dims.width, len(dims.heads)
        self.batch_first, self.grad_checkpointing = True, False
        self.resblocks = nn.ModuleList(CompactBlock(dims, layer, causal) for layer in range(self.layers))

    def get_cast_dtype(self) -> torch.dtype:
        """Return the dtype that the tower's embeddings are brought to."""
        return next(self.parameters()).dtype

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Run all layers.

        Args:
            x: Tokens, [B, T, W].
            attn_mask: As of torch's attention; causal layers have their own, and need none.

        Returns:
            Tokens, [B, T, W].
        """
        for block in self.resblocks:
            if self.grad_checkpointing and torch.is_grad_enabled():
                x = cast(Tensor, checkpoint(block, x, attn_mask, use_reentrant=False))
            else:
                x = block(x, attn_mask)
        return x


def read_dims(values: object) -> ImageDims | TextDims:
    """Read the dims of a cut tower.

    Args:
        values: What ``dims.model_dump(mode="json")`` gave, as it comes back from JSON.

    Raises:
        ConfigError: They are not dims.
    """
    try:
        return _READER.validate_python(values)
    except ValidationError as error:
        fix = "take the dims that were stored with the weights"
        raise ConfigError(message(f"the dims of a cut tower cannot be read: {error}", fix=fix)) from error


def build_tower(dims: ImageDims | TextDims) -> VisionTransformer | TextTransformer:
    """Build a cut tower with random weights, to be loaded with ``load_state_dict``.

    Args:
        dims: From :func:`compact`, or read back.

    Returns:
        open_clip's own tower around a :class:`CompactTransformer`, so that it can stand wherever that can: as the
        ``visual`` of a model, or by :func:`set_text_tower` as its text side. It can have gates again.
    """
    # the one layer that they want to be built with is replaced
    shared: dict[str, Any] = {"width": dims.width, "layers": 1, "heads": 1, "mlp_ratio": 1.0}
    shared |= {"output_dim": dims.embed_dim, "norm_layer": partial(LayerNorm, eps=dims.eps)}
    tower: Any
    if isinstance(dims, ImageDims):
        tower = VisionTransformer(
            image_size=cast(Any, dims.image_size), patch_size=cast(Any, dims.patch_size), **shared
        )
    else:
        tower = TextTransformer(context_length=dims.context_length, vocab_size=dims.vocab_size, **shared)
    tower.transformer = CompactTransformer(dims, causal=isinstance(dims, TextDims))
    return tower


def set_text_tower(model: CLIP, text: TextTransformer) -> None:
    """Put a cut text tower into a model, in the place of its own.

    Args:
        model: Changed in place.
        text: From :func:`build_tower`; the model uses its very parameters afterwards.
    """
    any_model: Any = model
    any_text: Any = text
    for name in ("transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection", "attn_mask"):
        setattr(any_model, name, getattr(any_text, name))
    any_model.context_length, any_model.vocab_size = any_text.context_length, any_text.vocab_size


@torch.no_grad()
def compact(tower: nn.Module, gates: GateValues) -> Compacted:
    """Cut a tower down to what settled gates keep.

    Args:
        tower: See :func:`training.models.gated_tower.tower_counts`; may have been cut before. Left as it is.
        gates: From :meth:`training.models.gates.TowerGates.settled`.

    Returns:
        Weights and dims of a tower that computes what this one does under these gates, and without gates.

    Raises:
        ConfigError: The tower cannot have gates, they are not of its shapes, or they close the whole width.
    """
    counts = check_gates(tower, gates)
    kept = gates.hidden.nonzero()[:, 0]  # [W'], in order
    if not len(kept):
        fix = "lower the target sparsity, or the gates' learning rate"
        raise ConfigError(message("nothing can be left of a tower whose width is closed", 0, "1 dim at least", fix))
    any_tower: Any = tower
    tensors = _cut_ends(any_tower, kept, gates.hidden[kept])
    heads: list[int] = []
    units: list[int] = []
    for index, block in enumerate(any_tower.transformer.resblocks):
        own = layer_gates(gates, counts, index)
        layer = compact_layer(block, own)
        tensors |= {f"transformer.resblocks.{index}.{name}": tensor for name, tensor in layer.items()}
        heads.append(int(own.heads.count_nonzero()))
        units.append(int(own.units.count_nonzero()))
    dims = _dims(any_tower, {"width": len(kept), "heads": tuple(heads), "units": tuple(units)})
    return Compacted({name: tensor.contiguous() for name, tensor in tensors.items()}, dims)


@torch.no_grad()
def compact_layer(block: nn.Module, gates: LayerGates) -> dict[str, Tensor]:
    """Cut one layer down to what settled gates keep.

    Args:
        block: A block of a tower that can have gates.
        gates: Of this layer.

    Returns:
        State dict of its :class:`CompactBlock`.
    """
    layer: Any = block
    kept, units = gates.hidden.nonzero()[:, 0], gates.units.nonzero()[:, 0]
    head_width = layer.attn.head_dim
    heads = gates.heads.nonzero() * head_width + torch.arange(head_width, device=gates.heads.device)
    output, channels = fold(block, gates), heads.flatten()
    tensors = {"attn.out_proj.bias": output.attention_bias[kept], "mlp.c_proj.bias": output.mlp_bias[kept]}
    if output.attention is not None and len(channels):
        weight, bias = (tensor.unflatten(0, (3, -1)) for tensor in (layer.attn.in_proj_weight, layer.attn.in_proj_bias))
        tensors |= _norm("ln_1", layer.ln_1, kept)
        tensors["attn.in_proj_weight"] = weight[:, channels][..., kept].flatten(0, 1)  # [3 * H' * head width, W']
        tensors["attn.in_proj_bias"] = bias[:, channels].flatten()
        tensors["attn.out_proj.weight"] = output.attention[kept][:, channels]
    if output.mlp is not None and len(units):
        tensors |= _norm("ln_2", layer.ln_2, kept)
        tensors["mlp.c_fc.weight"] = layer.mlp.c_fc.weight[units][:, kept]
        tensors["mlp.c_fc.bias"] = layer.mlp.c_fc.bias[units]
        tensors["mlp.c_proj.weight"] = output.mlp[kept][:, units]
    return tensors


def _cut_ends(tower: Any, kept: Tensor, scale: Tensor) -> dict[str, Tensor]:
    """Cut what comes before and after the layers."""
    tensors = {"positional_embedding": _scaled(tower.positional_embedding[:, kept], scale)}
    if isinstance(tower, VisionTransformer):
        any_tower: Any = tower
        tensors["class_embedding"] = _scaled(any_tower.class_embedding[kept], scale)
        tensors["conv1.weight"] = _scaled(any_tower.conv1.weight[kept], scale[:, None, None, None])
        tensors |= _norm("ln_pre", any_tower.ln_pre, kept) | _norm("ln_post", any_tower.ln_post, kept)
        tensors["proj"] = any_tower.proj[kept]  # not scaled, because the gated tower's is not
    else:
        tensors["token_embedding.weight"] = _scaled(tower.token_embedding.weight[:, kept], scale)
        tensors |= _norm("ln_final", tower.ln_final, kept)
        tensors["text_projection"] = tower.text_projection[kept]
    return tensors


def _dims(tower: Any, counts: dict[str, Any]) -> ImageDims | TextDims:
    block = tower.transformer.resblocks[0]
    activations = [name for name, kind in _ACTIVATIONS.items() if type(block.mlp.gelu) is kind]
    if not activations or getattr(block.mlp.gelu, "approximate", "none") != "none":
        fix = "use a tower without act_kwargs"
        raise ConfigError(message("cannot cut a tower with this activation", block.mlp.gelu, list(_ACTIVATIONS), fix))
    shared: dict[str, Any] = {**counts, "head_width": block.attn.head_dim, "activation": activations[0]}
    if isinstance(tower, VisionTransformer):
        image: Any = tower
        shared |= {"embed_dim": image.proj.shape[1], "eps": image.ln_post.eps}
        return ImageDims(image_size=image.image_size, patch_size=image.patch_size, **shared)
    shared |= {"embed_dim": tower.text_projection.shape[1], "eps": tower.ln_final.eps}
    vocab_size = len(tower.token_embedding.weight)
    return TextDims(context_length=len(tower.positional_embedding), vocab_size=vocab_size, **shared)


def _norm(name: str, norm: Any, kept: Tensor) -> dict[str, Tensor]:
    return {f"{name}.weight": norm.weight[kept], f"{name}.bias": norm.bias[kept]}


def _scaled(values: Tensor, gates: Tensor) -> Tensor:
    return (values * gates).to(values.dtype)


def _linear_or_bias(inputs: int, outputs: int) -> nn.Module:
    """A linear layer; of no inputs, just its bias under the same name."""
    if inputs:
        return nn.Linear(inputs, outputs)
    bare = nn.Module()
    bare.register_parameter("bias", nn.Parameter(torch.zeros(outputs)))
    bare.register_parameter("weight", None)
    return bare
