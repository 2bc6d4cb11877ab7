"""Which tokens of a language model count as words.

Candidates are pieces that are the letters a-z only once the word-start mark is taken off. Some are common ones, by the
order in which the tokenizer learnt its merges; others are words of the data set's own captions. Since tokenizers hold
many beginnings of words too, a word of a caption counts only as a whole ("gir" does not occur in "a giraffe").
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field, model_validator

from assets.errors import ConfigError, message
from assets.section import Section

_MARKS = ("\u0120", "\u2581")
"""Word starts of byte-level merges and of SentencePiece."""
_LETTERS = re.compile("[a-z]+")
_CAPTION_WORD = re.compile(r"[^\W\d_]+")


class VocabularyRule(Section):
    """How words are chosen."""

    common: int = Field(ge=0)
    """How many of the tokenizer's most common words are kept, whether captions have them or not."""
    corpus: bool
    """Whether the words of the data set's captions are kept beside them."""
    min_count: int = Field(default=2, ge=1)
    """In how many captions such a word must stand."""
    min_letters: int = Field(default=3, ge=1)
    """Shorter words are left out."""

    @model_validator(mode="after")
    def _some_words(self) -> "VocabularyRule":
        if not self.common and not self.corpus:
            raise ValueError(message("a vocabulary of no words", fix="set common above 0, or corpus to true"))
        return self


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The chosen words, in the order of their ids.

    Attributes:
        words: Without the word-start mark, all distinct, [V].
        ids: Their tokens, ascending, [V].
        counts: How many captions contain each, [V].
    """

    words: tuple[str, ...]
    ids: tuple[int, ...]
    counts: tuple[int, ...]


def count_words(captions: Mapping[str, int]) -> Counter[str]:
    """Count in how many captions each word stands, in lower case.

    Args:
        captions: Caption -> how often it occurs.
    """
    counts: Counter[str] = Counter()
    for caption, number in captions.items():
        for word in set(_CAPTION_WORD.findall(caption.lower())):
            counts[word] += number
    return counts


def choose_words(tokenizer: Any, word_start: bool, rule: VocabularyRule, captions: Mapping[str, int]) -> Vocabulary:
    """Choose words.

    Args:
        tokenizer: A tokenizer of transformers.
        word_start: Whether words are pieces with a word-start mark, or those without.
        rule: How to choose.
        captions: Caption of the data set -> how often it occurs.

    Returns:
        The words; the same whatever the order of the captions.

    Raises:
        ConfigError: The tokenizer marks no word starts, or no word is left.
    """
    candidates = _candidates(tokenizer, word_start, rule.min_letters)
    counts = count_words(captions)
    kept = dict(list(candidates.items())[: rule.common])
    if rule.corpus:
        kept |= {token: word for token, word in candidates.items() if counts[word] >= rule.min_count}
    if not kept:
        found = f"{len(candidates)} pieces of {rule.min_letters} letters or more, none in {rule.min_count} captions"
        raise ConfigError(message("no word is left for the vocabulary", found, fix="raise common or lower min_count"))
    ids = tuple(sorted(kept))
    words = tuple(kept[token] for token in ids)
    return Vocabulary(words, ids, tuple(counts[word] for word in words))


def _candidates(tokenizer: Any, word_start: bool, min_letters: int) -> dict[int, str]:
    """Return token -> word, by token."""
    pieces: dict[str, int] = tokenizer.get_vocab()
    mark = ""
    if word_start:
        starts = Counter(piece[0] for piece in pieces if len(piece) > 1 and piece.startswith(_MARKS))
        if not starts:
            what = f"{type(tokenizer).__name__} has no piece with a word-start mark"
            raise ConfigError(message(what, fix='use a prompt with word_start: false, such as "quoted"'))
        mark = max(_MARKS, key=lambda one: starts[one])
    bare = {token: piece.removeprefix(mark) for piece, token in pieces.items() if piece.startswith(mark)}
    fit = (token for token, word in bare.items() if len(word) >= min_letters and _LETTERS.fullmatch(word))
    return {token: bare[token] for token in sorted(fit)}
