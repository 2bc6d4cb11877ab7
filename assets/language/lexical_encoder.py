"""Captions -> the state in which a frozen language model is about to name an important word, the text side of LexVLA.

It is the state behind the final norm at the last token of the prompt; its products with the rows of the output matrix
are the logits of the next word. The text before the caption is the same for all: it runs once, and its keys and values
are shared. What comes back is not normalised, and a caption's batch-mates change nothing beyond rounding.
"""

import copy
import inspect
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from assets.errors import ConfigError, message
from assets.language.caption_batches import batches, check_finite, usual_tokens
from assets.language.decoder import Decoder
from assets.language.facet_layout import additive_mask, allowed_pairs, lay_out
from assets.language.lexical_prompt import LexicalPrompt
from assets.language.model_files import LoadedModel
from assets.language.prompt_tokens import PromptTokens
from assets.language.prompts import CLEANING_VERSION, clean_caption


class LexicalEncoder:
    """Encodes captions with a frozen language model.

    Attributes:
        prompt: What the model is asked.
        tokenizer: The model's tokenizer, whose pieces are the words.
        width: D, the width of a vector.
        num_cut: Captions met so far that were longer than the limit, and cut there.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        prompt: LexicalPrompt,
        max_caption_tokens: int = 64,
        tokens_per_batch: int | None = None,
    ) -> None:
        """Set the encoder up.

        Args:
            loaded: The model, which stays as it is.
            prompt: What it is asked.
            max_caption_tokens: Where captions are cut.
            tokens_per_batch: Most tokens at a time, padding included and the shared prefix left out; one sequence runs
                whatever its length. None for what suits the model's device.

        Raises:
            ConfigError: The model has no output matrix, or too few positions for the longest caption.
        """
        self.prompt, self.tokenizer, self.num_cut = prompt, loaded.tokenizer, 0
        self._loaded = loaded
        self._base: Any = loaded.model.base_model
        self._decoder = Decoder(loaded.model, -1)  # knows what a model must be able to do
        self._cache_name = "cache" if "cache" in inspect.signature(self._base.forward).parameters else "past_key_values"
        self._output = _output_matrix(loaded)
        self.width = self._output.shape[1]
        self._tokens = PromptTokens(loaded.tokenizer, prompt.prompt_set, max_caption_tokens)
        self._prefix = self._tokens.prefixes([""], "short")[0][0]
        self._tail = self._tokens.facets()[0]
        self._tokens_per_batch = tokens_per_batch or usual_tokens(self._decoder.device.type)
        self._past: Any = None
        self._check_positions(max_caption_tokens)

    def _check_positions(self, max_caption_tokens: int) -> None:
        most, around = self._decoder.max_positions, len(self._prefix) + len(self._tail)
        if most is not None and around + max_caption_tokens > most:
            what = f"{self._loaded.name} attends to {most} tokens: the limit of captions is too high"
            raise ConfigError(message(what, max_caption_tokens, f"at most {most - around}"))

    @property
    def facts(self) -> dict[str, Any]:
        """What the vectors depend on beside captions, for manifests; JSON-serialisable."""
        return {
            **self._loaded.facts,
            "prompt": self.prompt.digest,
            "max_caption_tokens": self._tokens.max_caption_tokens,
            "cleaning": CLEANING_VERSION,
        }

    def output_rows(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return rows of the model's output matrix.

        Args:
            ids: Tokens, [V].

        Returns:
            float32 [V, D].
        """
        return self._output[torch.tensor(list(ids), device=self._output.device)].float().cpu().numpy()

    def tokens(self, captions: Sequence[str]) -> NDArray[np.int64]:
        """Count the tokens that each caption sends through the model behind the shared prefix, [B]."""
        rows, _ = self._pieces([clean_caption(caption) for caption in captions])
        return np.array([len(row) + len(self._tail) for row in rows], dtype=np.int64)

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> NDArray[np.float32]:
        """Encode captions.

        Args:
            captions: Any number; equal ones are encoded once.

        Returns:
            States behind the final norm, not normalised, [B, D], in the order given.

        Raises:
            DataError: The model's answer to a caption is not finite.
        """
        cleaned = [clean_caption(caption) for caption in captions]
        counts = Counter(cleaned)
        distinct = list(counts)
        pieces, cut = self._pieces(distinct)
        self.num_cut += sum(counts[caption] for caption, was_cut in zip(distinct, cut, strict=True) if was_cut)
        states = np.empty((len(distinct), self.width), dtype=np.float32)
        for rows in batches([len(piece) for piece in pieces], len(self._tail), self._tokens_per_batch):
            states[rows] = self._forward([pieces[row] for row in rows]).float().cpu().numpy()
            check_finite(self._loaded.name, self._decoder.dtype, [distinct[row] for row in rows], states[rows])
        place = {caption: row for row, caption in enumerate(distinct)}
        return states[[place[caption] for caption in cleaned]]

    def _pieces(self, captions: Sequence[str]) -> tuple[list[list[int]], list[bool]]:
        """Return the tokens of cleaned captions alone, and whether each was cut."""
        whole, cut = self._tokens.prefixes(captions, "short")
        return [row[len(self._prefix) :] for row in whole], cut

    def _forward(self, pieces: Sequence[Sequence[int]]) -> Tensor:
        """Run captions and the rest of the question behind the shared prefix; states at the last token, [B, D]."""
        device, length = self._decoder.device, len(self._prefix)
        past = copy.deepcopy(self._shared())  # a pass appends to it
        past.batch_repeat_interleave(len(pieces))
        layout = lay_out(pieces, [self._tail], "reset")
        own = allowed_pairs(layout.segment.to(device))  # [B, S, S]
        allowed = torch.cat([own.new_ones(*own.shape[:2], length), own], dim=2)
        positions = (layout.positions + length).to(device)
        hidden = self._run(layout.token_ids.to(device), additive_mask(allowed, self._decoder.dtype), positions, past)
        return hidden[torch.arange(len(pieces)), layout.pool_index[:, 0]]

    def _shared(self) -> Any:
        """Return the keys and values of the text before every caption, computed on first use."""
        if self._past is None:
            from transformers import DynamicCache

            ids = torch.tensor([self._prefix], device=self._decoder.device)
            mask = additive_mask(allowed_pairs(torch.zeros_like(ids)), self._decoder.dtype)
            self._past = DynamicCache()
            self._run(ids, mask, torch.arange(len(self._prefix), device=ids.device)[None], self._past)
        return self._past

    def _run(self, token_ids: Tensor, mask: Tensor, positions: Tensor, past: Any) -> Tensor:
        """Return the states behind the final norm, [B, T, D]; ``past`` grows."""
        found = self._base(
            input_ids=token_ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            **{self._cache_name: past},
        )
        return found.last_hidden_state


def _output_matrix(loaded: LoadedModel) -> Tensor:
    """Return the matrix whose rows stand for tokens, [tokens, D]."""
    output = loaded.model.get_output_embeddings()
    if output is None:
        what = f"{loaded.name} has no output matrix, so its states stand for no words"
        raise ConfigError(message(what, type(loaded.model).__name__, "a causal language model"))
    return output.weight.detach()
