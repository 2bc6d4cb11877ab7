"""The language model behind lexical text, run in training with low-rank adapters (LoRA, arXiv 2106.09685).

    z = u(h - m),  h = u(state behind the final norm at the last token of PREFIX caption TAIL)

u divides by the norm, m is the mean of the slot (nothing where text is not centred). With the adapters at their start
this is the row that the stage ``features`` made. PREFIX is the same for all captions, so it runs once per pass, with
gradients, and its keys and values are shared. The language model stays as it is and is no part of the module: state
dict, optimiser, checkpoint and export hold the adapters alone, whose parameters both share.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from assets.errors import ConfigError, message
from assets.language.facet_layout import additive_mask
from assets.language.lexical_prompt import LexicalPrompt
from training.data.tokens import PromptTokenizer
from training.models.towers_config import LoraSettings

# what transformers does around its cache would only break a graph into pieces
_uncompiled: Any = torch.compiler.disable


@dataclass(frozen=True, slots=True)
class PromptModel:
    """A language model and what it is asked.

    Attributes:
        model: A causal language model of transformers, in evaluation mode and without gradients.
        tokenizer: Its tokenizer.
        prompt: The text around a caption.
        max_caption_tokens: Where captions are cut.
        cache_name: How its forward pass calls the keys and values that are there already.
    """

    model: Any
    tokenizer: Any
    prompt: LexicalPrompt
    max_caption_tokens: int
    cache_name: str = "past_key_values"


class LoraText(nn.Module):
    """Captions in their prompt -> states, through a language model with adapters.

    Attributes:
        weights: The adapters' parameters, in float32 at least.
        tokens: Turns captions into what ``forward`` takes.
    """

    mean: Tensor | None

    def __init__(self, asked: PromptModel, settings: Mapping[str, Any], mean: NDArray[np.float32] | None) -> None:
        """Put adapters into a language model; draws from torch's global generator.

        Args:
            asked: The model, which is changed, and the prompt.
            settings: Of the adapters, see :class:`training.models.towers_config.LoraSettings`.
            mean: What is taken off unit states, [D]; None for nothing.

        Raises:
            ConfigError: The model has no linear layer of a name in ``targets``, or peft is not installed.
        """
        super().__init__()
        base: nn.Module = asked.model.base_model
        names = _add_adapters(base, LoraSettings.model_validate(dict(settings)))
        self.weights = nn.ParameterDict({_registered(name): base.get_parameter(name) for name in names})
        self.tokens = PromptTokenizer(asked.tokenizer, asked.prompt, asked.max_caption_tokens)
        self.register_buffer("mean", None if mean is None else torch.from_numpy(mean).clone(), persistent=False)
        self._cache_name, self._names = asked.cache_name, names
        self._held = (base,)  # a tuple, which torch does not look into
        self.train(self.training)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Take the language model along to another device or type, and share the parameters as before."""
        super()._apply(fn, recurse)
        (base,) = self._held
        base._apply(fn)
        for name in self._names:
            module, _, leaf = name.rpartition(".")
            setattr(base.get_submodule(module), leaf, self.weights[_registered(name)])
        return self

    def train(self, mode: bool = True) -> Self:
        """Switch the adapters' dropout; the language model itself stays in evaluation mode."""
        super().train(mode)
        for name, module in self._held[0].named_modules():
            if ".lora_dropout" in name:
                module.train(mode)
        return self

    def forward(self, text: Tensor) -> Tensor:
        """Return the states of captions.

        Args:
            text: What ``tokens`` makes of captions: ids plus one, zeros behind the end, int64 [B, T].

        Returns:
            Unit norm, without the mean, [B, D].
        """
        unit: Tensor = self._unit_states(text)
        return unit if self.mean is None else functional.normalize(unit - self.mean, dim=-1)

    @_uncompiled
    def _unit_states(self, text: Tensor) -> Tensor:
        """Return the states at the last token, unit norm, [B, D]."""
        rows, length = text.shape
        past, before = self._prefix(text.device)
        for layer in past.layers:
            layer.keys, layer.values = (kept.expand(rows, -1, -1, -1) for kept in (layer.keys, layer.values))
        # padding comes last, where no token of the caption sees it
        causal = torch.ones(length, length, dtype=torch.bool, device=text.device).tril()
        allowed = torch.cat([causal.new_ones(length, before), causal], dim=1)  # [T, P + T]
        positions = torch.arange(before, before + length, device=text.device)
        states = self._run((text - 1).clamp(min=0), allowed, positions, past)  # [B, T, D]
        last = (text > 0).sum(dim=1) - 1
        state = states[torch.arange(rows, device=text.device), last]
        return functional.normalize(state.to(torch.promote_types(state.dtype, torch.float32)), dim=-1)

    def _prefix(self, device: torch.device) -> tuple[Any, int]:
        """Run what comes before every caption; its keys and values, and how many tokens it has."""
        from transformers import DynamicCache  # takes seconds to import

        ids = torch.tensor([self.tokens.prefix], device=device)
        length = ids.shape[1]
        past = DynamicCache()
        causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
        self._run(ids, causal, torch.arange(length, device=device), past)
        return past, length

    def _run(self, token_ids: Tensor, allowed: Tensor, positions: Tensor, past: Any) -> Tensor:
        """Return the states behind the final norm, [B, T, D]; ``past`` grows."""
        (base,) = self._held
        rows = len(token_ids)
        dtype = next(base.parameters()).dtype
        found = base(
            input_ids=token_ids,
            attention_mask=additive_mask(allowed[None], dtype).expand(rows, -1, -1, -1),
            position_ids=positions[None].expand(rows, -1),
            use_cache=True,
            **{self._cache_name: past},
        )
        return found.last_hidden_state


def _registered(name: str) -> str:
    """Return a parameter's name without dots, which torch keeps for itself."""
    return name.replace(".", "-")


def _add_adapters(base: nn.Module, settings: LoraSettings) -> list[str]:
    """Put adapters beside linear layers, in place; return the names of their parameters."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        what = "towers.text.lora needs peft, which is not installed"
        raise ConfigError(message(what, fix='run "pip install peft"')) from error
    linear = [name for name, module in base.named_modules() if isinstance(module, nn.Linear)]
    chosen = linear
    if settings.targets != "all":
        wanted = set(settings.targets)
        chosen = [name for name in linear if name.rpartition(".")[2] in wanted]
        if missing := sorted(wanted - {name.rpartition(".")[2] for name in chosen}):
            known = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
            what = "towers.text.lora.targets names no linear layer of the language model"
            raise ConfigError(message(what, ", ".join(missing), f"some of {known}, or all"))
    if not chosen:
        what = f"{type(base).__name__} has no linear layer that adapters could join"
        raise ConfigError(message(what, fix="leave towers.text.lora out"))
    base.requires_grad_(False)
    alpha: Any = settings.alpha
    config = LoraConfig(
        r=settings.rank, lora_alpha=alpha, lora_dropout=settings.dropout, target_modules=chosen, bias="none"
    )
    inject_adapter_in_model(config, base)
    base.eval()
    added = [(name, parameter) for name, parameter in base.named_parameters() if parameter.requires_grad]
    for _, parameter in added:
        # steps of the optimiser are too small for half precision
        parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
    return [name for name, _ in added]
