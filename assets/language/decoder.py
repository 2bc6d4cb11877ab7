"""The hidden states of a causal language model at chosen layers, before its final norm, with no layer run in vain."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from assets.errors import ConfigError, message

_MASKABLE = {"full_attention", "sliding_attention"}


class _EnoughError(Exception):
    """Raised by the hook of the last layer that is read, to end the forward pass there."""


class Decoder:
    """Reads the residual stream of a Hugging Face causal language model; the model itself is not changed.

    Attributes:
        layers: The layers whose outputs are averaged, counted from 1.
        width: W, the model's hidden size.
        device: Where the model is.
        dtype: In which type it computes.
        max_positions: How many positions it knows; None when any number is fine.
    """

    def __init__(self, model: Any, layer: int | tuple[int, ...]) -> None:
        """Choose layers.

        Args:
            model: A causal language model of transformers.
            layer: 1 is the first decoder layer, -1 the last, -2 the one before; several are averaged.

        Raises:
            ConfigError: There is no such layer, or the model cannot place tokens freely.
        """
        config = model.config.get_text_config()
        self._base: nn.Module = model.base_model
        self._modules = _layers_of(self._base, config.num_hidden_layers)
        chosen = layer if isinstance(layer, tuple) else (layer,)
        self.layers = tuple(sorted(_counted(one, len(self._modules)) for one in chosen))
        if not self.layers:
            raise ConfigError(message("the layers to read", "none", "one or more"))
        self.width: int = config.hidden_size
        weight = next(self._base.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        self._accepted = inspect.signature(self._base.forward).parameters
        if "position_ids" not in self._accepted:
            raise ConfigError(
                message(
                    f"{type(model).__name__} takes no position ids, so facets cannot share a caption",
                    fix="use a model with rotary or learned positions",
                )
            )
        strange = set(getattr(config, "layer_types", None) or ()) - _MASKABLE
        if strange:
            what = f"{type(model).__name__} has layers that no attention mask reaches"
            raise ConfigError(message(what, ", ".join(sorted(strange)), "attention layers only"))
        limits = [getattr(config, name, None) for name in ("max_position_embeddings", "sliding_window")]
        self.max_positions: int | None = min((limit for limit in limits if limit), default=None)

    def __call__(self, token_ids: Tensor, mask: Tensor, positions: Tensor, past: Any = None) -> Tensor:
        """Run the model up to the last layer that is read.

        Args:
            token_ids: [B, T].
            mask: Additive [B, 1, T, keys], or 2-d with 1 at tokens and 0 at padding for plain causal attention [B, T].
            positions: [B, T].
            past: A transformers cache with the keys before these tokens, which it joins; None without any.

        Returns:
            Mean over the layers of their outputs, [B, T, W].
        """
        keys = {} if past is None else {"cache" if "cache" in self._accepted else "past_key_values": past}
        outputs: list[Tensor] = []

        def read(_module: nn.Module, _inputs: Any, output: Any) -> None:
            # a layer returns its stream, in older releases as the first of several things
            outputs.append(output if isinstance(output, Tensor) else output[0])
            if len(outputs) == len(self.layers):
                raise _EnoughError

        hooks = [self._modules[number - 1].register_forward_hook(read) for number in self.layers]
        try:
            self._base(
                input_ids=token_ids, attention_mask=mask, position_ids=positions, use_cache=past is not None, **keys
            )
        except _EnoughError:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        return outputs[0] if len(outputs) == 1 else torch.stack(outputs).mean(dim=0)


def _layers_of(base: nn.Module, number: int) -> nn.ModuleList:
    for module in base.modules():
        if isinstance(module, nn.ModuleList) and len(module) == number:
            return module
    raise ConfigError(
        message(f"{type(base).__name__} has no list of {number} decoder layers", fix="use a decoder-only model")
    )


def _counted(layer: int, number: int) -> int:
    if not 1 <= abs(layer) <= number:
        wanted = f"1 to {number}, or -{number} to -1"
        raise ConfigError(message("the layer of the language model that is read", layer, wanted))
    return layer if layer > 0 else number + 1 + layer
