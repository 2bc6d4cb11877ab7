"""Captions to token ids: the ids of open_clip's ``SimpleTokenizer``, at a twentieth of its time.

Two facts make it exact. No token of CLIP's vocabulary spans a blank, so a caption is a row of words whose ids can be
remembered; and cleaning (broken encodings, HTML entities, control characters) changes nothing in plain printable ASCII
without an ampersand, which most captions are.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from open_clip.tokenizer import SimpleTokenizer
from tokenizers.models import BPE
from torch import Tensor

from assets.language.lexical_prompt import LexicalPrompt
from assets.language.prompt_tokens import PromptTokens
from assets.language.prompts import clean_caption

_MOST_WORDS = 1 << 17
_LONGEST_WORD = 32


class CaptionTokenizer:
    """CLIP's byte-pair tokenizer of 49,408 entries, for captions cleaned and put in lower case as CLIP does."""

    def __init__(self, context_length: int) -> None:
        """Read the vocabulary that open_clip ships.

        Args:
            context_length: Token ids per caption, T; start and end token included.
        """
        self.context_length = context_length
        self._original = SimpleTokenizer(context_length=context_length)
        self._specials = {text: self._original.encoder[text] for text in self._original.cache}
        # the original's own merging takes quadratic time, milliseconds for a caption without blanks
        merges = [(left, right) for left, right in self._original.bpe_ranks]
        self._merge = BPE(self._original.encoder, merges, end_of_word_suffix="</w>")
        self._words: dict[str, list[int]] = {}

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Return the token ids of captions, as :meth:`encode` does."""
        return self.encode(captions)[0]

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokenise captions and say which did not fit.

        Args:
            captions: Any texts.

        Returns:
            Token ids, int64 [len(captions), T], zeros behind the end token; and whether a caption was cut, in which
            case the end token takes the last place, bool [len(captions)].
        """
        text = np.zeros((len(captions), self.context_length), dtype=np.int64)
        cut = np.zeros(len(captions), dtype=np.bool_)
        for row, caption in enumerate(captions):
            ids = self._ids(caption)
            if len(ids) > self.context_length:
                cut[row] = True
                ids = [*ids[: self.context_length - 1], self._original.eot_token_id]
            text[row, : len(ids)] = ids
        return torch.from_numpy(text), torch.from_numpy(cut)

    def _ids(self, caption: str) -> list[int]:
        """Return all ids of a caption, between start and end token."""
        if caption.isascii() and caption.isprintable() and "&" not in caption:
            caption = caption.lower()
        else:
            caption = self._original.clean_fn(caption)
        ids = [self._original.sot_token_id]
        words = self._words
        for word in caption.split():
            ids += words[word] if word in words else self._learn(word)
        ids.append(self._original.eot_token_id)
        return ids

    def _learn(self, word: str) -> list[int]:
        """Return the ids of a word in clean lower case, and remember them."""
        original, ids = self._original, list[int]()
        for piece in original.pat.findall(word):
            if piece in self._specials:
                ids.append(self._specials[piece])
            else:
                spelled = "".join(original.byte_encoder[byte] for byte in piece.encode())
                ids += [token.id for token in self._merge.tokenize(spelled)]
        if len(word) <= _LONGEST_WORD:
            if len(self._words) >= _MOST_WORDS:
                self._words.clear()  # the frequent ones are back after a few hundred captions
            self._words[word] = ids
        return ids


class OpenClipTokenizer:
    """Any other tokenizer of open_clip, at its own speed."""

    def __init__(self, tokenizer: Callable[[list[str]], Tensor], padding: int) -> None:
        """Wrap a tokenizer.

        Args:
            tokenizer: Captions -> token ids, int64 [len(captions), T].
            padding: The id behind the end of a caption.
        """
        self._tokenizer, self._padding = tokenizer, padding

    def encode(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Tokenise captions and say which fill the context.

        Returns:
            Token ids, int64 [len(captions), T]; and whether no padding is left, bool [len(captions)]: the caption was
            cut, or ended exactly there.
        """
        text = self._tokenizer(captions)
        return text, text[:, -1] != self._padding


class PromptTokenizer:
    """The tokenizer of a language model, for captions in a prompt.

    Attributes:
        prefix: Ids of what comes before every caption.
    """

    def __init__(self, tokenizer: Any, prompt: LexicalPrompt, max_caption_tokens: int) -> None:
        """Tokenise the prompt.

        Args:
            tokenizer: A tokenizer of transformers.
            prompt: The text around a caption.
            max_caption_tokens: Where captions are cut.
        """
        self._tokens = PromptTokens(tokenizer, prompt.prompt_set, max_caption_tokens)
        self.prefix = self._tokens.prefixes([""], "short")[0][0]
        self._tail = self._tokens.facets()[0]

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokenise captions and what follows each, and say which captions did not fit.

        Args:
            captions: Any texts.

        Returns:
            Ids plus one, so that 0 is for padding, which models need not know; int64 [len(captions), T], T being the
            limit and the prompt's end. And whether a caption was cut, bool [len(captions)].
        """
        whole, cut = self._tokens.prefixes([clean_caption(caption) for caption in captions], "short")
        text = np.zeros((len(captions), self._tokens.max_caption_tokens + len(self._tail)), dtype=np.int64)
        for row, ids in enumerate(whole):
            piece = [*ids[len(self.prefix) :], *self._tail]
            text[row, : len(piece)] = piece
            text[row, : len(piece)] += 1
        return torch.from_numpy(text), torch.tensor(cut, dtype=torch.bool)
