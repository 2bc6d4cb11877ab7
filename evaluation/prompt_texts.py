"""Texts through the language model that was trained with a lexical model; nothing is kept on disk."""

from collections.abc import Sequence

import numpy as np
import torch

from evaluation.sides import Array, checked
from training.models.lexical import LexicalModel
from training.models.lora_text import LoraText
from training.models.text_pass import trim_text

_BATCH = 64


class PromptTexts:
    """The text side of a lexical model with adapters."""

    def __init__(self, model: LexicalModel, lora: LoraText, device: torch.device) -> None:
        """Keep the model.

        Args:
            model: In evaluation mode.
            lora: Its language model.
            device: Where it is.
        """
        self._model, self._tokens, self._device = model, lora.tokens, device

    @torch.inference_mode()
    def encode(self, captions: Sequence[str]) -> Array:
        """Encode captions, unit norm, float32 [n, V]; equal ones once.

        Raises:
            DataError: A feature is not finite.
        """
        distinct = list(dict.fromkeys(captions))
        text, _ = self._tokens.encode(distinct)  # [n, T]
        # neighbours of a length share a batch, which ends where its longest caption does
        order = torch.argsort((text > 0).sum(dim=1), stable=True)
        features = np.empty((len(distinct), self._model.head.width), dtype=np.float32)
        for rows in order.split(_BATCH):
            found = self._model.encode_prompts(trim_text(text[rows]).to(self._device))
            features[rows.numpy()] = checked(found)
        place = {caption: row for row, caption in enumerate(distinct)}
        return features[[place[caption] for caption in captions]]

    def count_cut(self, captions: Sequence[str]) -> int:
        """Count the distinct texts that are longer than the limit."""
        return int(self._tokens.encode(list(dict.fromkeys(captions)))[1].sum())
