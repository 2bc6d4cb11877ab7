"""Captions -> one hidden state per caption and facet of a frozen language model, the text side of FLAME.

What comes back is not normalised. Each distinct caption runs once, with others of like length, and neither its
batch-mates nor the other facets change its vectors beyond rounding.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from assets.errors import ConfigError, message
from assets.language.caption_batches import batches, check_finite, usual_tokens
from assets.language.decoder import Decoder
from assets.language.facet_forward import STRATEGIES, Strategy, num_tokens
from assets.language.facet_layout import Positions
from assets.language.model_files import LoadedModel
from assets.language.prompt_tokens import PromptTokens
from assets.language.prompts import CLEANING_VERSION, PromptSet, WrapperName, clean_caption


class FacetEncoder:
    """Encodes captions with a frozen language model.

    Attributes:
        prompts: Wrappers and facets.
        width: W, the width of a vector.
        num_cut: Captions met so far that were longer than the limit, and cut there.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        prompts: PromptSet,
        layer: int | tuple[int, ...] = -2,
        positions: Positions = "reset",
        strategy: Strategy = "mask",
        max_caption_tokens: int = 1024,
        tokens_per_batch: int | None = None,
    ) -> None:
        """Set the encoder up.

        Args:
            loaded: The model, which stays as it is.
            prompts: Wrappers and facets.
            layer: Decoder layer that is read, from 1 or from -1 backwards; several are averaged.
            positions: How facets are counted.
            strategy: How the facets of a caption share its work; all give the same vectors.
            max_caption_tokens: Where captions are cut.
            tokens_per_batch: Most tokens at a time, padding included; one sequence runs whatever its length. None for
                what suits the model's device.

        Raises:
            ConfigError: The model lacks the layer, or has too few positions for the longest caption.
        """
        self.prompts, self.num_cut = prompts, 0
        self._loaded = loaded
        self._positions: Positions = positions
        self._strategy: Strategy = strategy
        self._decoder = Decoder(loaded.model, layer)
        self._tokens = PromptTokens(loaded.tokenizer, prompts, max_caption_tokens)
        self._tokens_per_batch = tokens_per_batch or usual_tokens(self._decoder.device.type)
        self.width = self._decoder.width
        self._check_positions(max_caption_tokens)

    def _check_positions(self, max_caption_tokens: int) -> None:
        wrappers = [self._tokens.prefixes([""], name)[0][0] for name in ("short", "long")]
        facets = [len(facet) for facet in self._tokens.facets()]
        most = self._decoder.max_positions
        needed = max(map(len, wrappers)) + max_caption_tokens + sum(facets)
        if most is not None and needed > most:
            wanted = f"at most {max_caption_tokens - needed + most}"
            what = f"{self._loaded.name} attends to {most} tokens: the limit of captions is too high"
            raise ConfigError(message(what, max_caption_tokens, wanted))

    @property
    def facts(self) -> dict[str, Any]:
        """What the vectors depend on beside captions, wrapper and facets, for manifests; JSON-serialisable."""
        return {
            **self._loaded.facts,
            "layers": list(self._decoder.layers),
            "positions": self._positions,
            "prompts": self.prompts.digest,
            "max_caption_tokens": self._tokens.max_caption_tokens,
            "cleaning": CLEANING_VERSION,
        }

    def tokens(
        self, captions: Sequence[str], wrapper: WrapperName, facets: Sequence[str] | None = None
    ) -> NDArray[np.int64]:
        """Count the tokens that each caption would send through the model, padding left out.

        Args:
            captions: Any number.
            wrapper: What goes around them.
            facets: Names; every facet when None.

        Returns:
            Counts, [B].
        """
        lengths = [len(facet) for facet in self._tokens.facets(facets)]
        prefixes, _ = self._tokens.prefixes([clean_caption(caption) for caption in captions], wrapper)
        return np.array([num_tokens(self._strategy, len(prefix), lengths) for prefix in prefixes], dtype=np.int64)

    @torch.no_grad()
    def encode(
        self, captions: Sequence[str], wrapper: WrapperName, facets: Sequence[str] | None = None
    ) -> NDArray[np.float32]:
        """Encode captions.

        Args:
            captions: Any number; equal ones are encoded once.
            wrapper: What goes around them.
            facets: Names, in the order wanted; every facet when None.

        Returns:
            Hidden states, not normalised, [B, F, W], in the order given.

        Raises:
            ConfigError: There is no such facet.
            DataError: The model's answer to a caption is not finite.
        """
        cleaned = [clean_caption(caption) for caption in captions]
        counts = Counter(cleaned)
        distinct = list(counts)
        prefixes, cut = self._tokens.prefixes(distinct, wrapper)
        self.num_cut += sum(counts[caption] for caption, was_cut in zip(distinct, cut, strict=True) if was_cut)
        facet_ids = self._tokens.facets(facets)
        forward = STRATEGIES[self._strategy]
        features = np.empty((len(distinct), len(facet_ids), self.width), dtype=np.float32)
        for rows in batches([len(prefix) for prefix in prefixes], sum(map(len, facet_ids)), self._tokens_per_batch):
            pooled = forward(self._decoder, [prefixes[row] for row in rows], facet_ids, self._positions)
            features[rows] = pooled.float().cpu().numpy()
            check_finite(self._loaded.name, self._decoder.dtype, [distinct[row] for row in rows], features[rows])
        place = {caption: row for row, caption in enumerate(distinct)}
        return features[[place[caption] for caption in cleaned]]
