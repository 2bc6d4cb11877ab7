"""Captions in their wrappers and facets as token ids, made piece by piece, so that only captions are ever cut."""

from collections.abc import Sequence
from typing import Any

from assets.errors import ConfigError, message
from assets.language.prompts import PromptSet, WrapperName


class PromptTokens:
    """Tokenises what a prompt set makes of captions.

    Attributes:
        prompts: Wrappers and facets.
        max_caption_tokens: Where captions are cut.
    """

    def __init__(self, tokenizer: Any, prompts: PromptSet, max_caption_tokens: int) -> None:
        """Keep the parts.

        Args:
            tokenizer: A tokenizer of transformers.
            prompts: Wrappers and facets.
            max_caption_tokens: Where captions are cut.
        """
        self.prompts, self.max_caption_tokens = prompts, max_caption_tokens
        self._tokenizer = tokenizer

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        # a caption that spells a control token means its letters
        return self._tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def prefixes(self, captions: Sequence[str], wrapper: WrapperName) -> tuple[list[list[int]], list[bool]]:
        """Put captions into a wrapper, behind the begin token where the tokenizer uses one.

        Args:
            captions: Cleaned texts, [B].
            wrapper: Which one.

        Returns:
            Token ids of each and whether its caption was cut.
        """
        around = self.prompts.wrapper(wrapper)
        before, after = self._ids([around.before, around.after])
        before = self._begin() + before
        most = self.max_caption_tokens
        pieces = self._ids(captions)
        return [before + piece[:most] + after for piece in pieces], [len(piece) > most for piece in pieces]

    def _begin(self) -> list[int]:
        """Return the begin token if the tokenizer puts it before a text, as the model then saw in training."""
        begin = self._tokenizer.bos_token_id
        return [begin] if begin is not None and self._tokenizer("a")["input_ids"][:1] == [begin] else []

    def facets(self, names: Sequence[str] | None = None) -> list[list[int]]:
        """Return the token ids of facets.

        Args:
            names: In the order wanted; every facet when None.

        Raises:
            ConfigError: There is no such facet, or the tokenizer makes nothing of one.
        """
        chosen = self.prompts.choose(names)
        ids = self._ids([facet.text for facet in chosen])
        for facet, tokens in zip(chosen, ids, strict=True):
            if not tokens:
                raise ConfigError(message(f"the tokenizer makes no token of facet {facet.name}", facet.text))
        return ids
