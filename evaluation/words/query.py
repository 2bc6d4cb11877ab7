"""What is asked: weights by word, and words that a picture must or must not show.

A query of words is written ``apple red^2 -cherry +fruit``: each word weighs 1, or what follows ``^``; a word after
``+`` must be there, and weighs like the others; one after ``-`` must not.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from assets.errors import ConfigError, message
from evaluation.words.word_list import WordList

_TERM = re.compile(r"(?P<sign>[+-]?)(?P<word>.+?)(\^(?P<boost>[^^]*))?")


@dataclass(frozen=True, slots=True)
class Asked:
    """A query in numbers.

    Attributes:
        text: As it was written.
        weights: By word, above 0.
        must: Words that a picture must show.
        must_not: Words that a picture must not show.
    """

    text: str
    weights: dict[int, float]
    must: tuple[int, ...] = ()
    must_not: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if both := set(self.must) & set(self.must_not):
            raise ConfigError(message(f"{self.text!r}: {len(both)} word must and must not be there", fix="choose one"))


def parse_words(text: str, words: WordList) -> Asked:
    """Read a query of words.

    Args:
        text: As the module's docstring describes.
        words: Those of the index.

    Raises:
        ConfigError: A word is unknown, a boost is no number above 0, or no word says what is wanted.
    """
    weights: dict[int, float] = {}
    signed: dict[str, list[int]] = {"+": [], "-": [], "": []}
    for term in text.split():
        match = _TERM.fullmatch(term)
        if match is None:
            raise ConfigError(message(f"{term!r} in {text!r} names no word", fix="write WORD, WORD^2, +WORD or -WORD"))
        number = words.number(match["word"])
        signed[match["sign"]].append(number)
        if match["sign"] != "-":
            weights[number] = weights.get(number, 0.0) + _boost(match["boost"], term)
        elif match["boost"] is not None:
            raise ConfigError(message(f"{term!r} excludes a word, which has no weight", fix="leave the ^ out"))
    if not weights:
        raise ConfigError(message("the query is empty", text, "at least one word that is wanted"))
    return Asked(text, weights, tuple(signed["+"]), tuple(signed["-"]))


def _boost(text: str | None, term: str) -> float:
    try:
        boost = 1.0 if text is None else float(text)
    except ValueError:
        boost = 0.0
    if not 0 < boost < float("inf"):
        raise ConfigError(message(f"the weight in {term!r}", text, "a number above 0, such as red^2"))
    return boost


def numbers(named: Sequence[str], words: WordList) -> tuple[int, ...]:
    """Return the numbers of words.

    Args:
        named: The words.
        words: Those of the index.

    Raises:
        ConfigError: One is unknown; names the nearest ones.
    """
    return tuple(words.number(word) for word in named)
