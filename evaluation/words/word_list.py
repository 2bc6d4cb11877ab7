"""The words that vectors are over, as an index keeps them: enough to read a query and to name what was found."""

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assets.atomic import write_json
from assets.errors import ConfigError, DataError, message

WORDS = "words.json"
_NEAREST = 3


@dataclass(frozen=True, slots=True)
class WordList:
    """Words by number.

    Attributes:
        words: All distinct, [V].
        version: Of the model's vocabulary, which changes with every word and with the language model.
    """

    words: tuple[str, ...]
    version: str
    _places: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_places", {word: place for place, word in enumerate(self.words)})

    def number(self, word: str) -> int:
        """Return the number of a word, as it is written or else in lower case.

        Raises:
            ConfigError: There is no such word; names the nearest ones.
        """
        place = self._places.get(word, self._places.get(word.lower()))
        if place is None:
            near = difflib.get_close_matches(word.lower(), self.words, n=_NEAREST, cutoff=0.5)
            hint = f"the nearest are {', '.join(near)}" if near else "none is near"
            raise ConfigError(message(f"{word!r} is none of the model's {len(self.words)} words; {hint}"))
        return place

    def save(self, folder: Path) -> None:
        """Write ``words.json``."""
        write_json(folder / WORDS, {"version": self.version, "words": list(self.words)})


def read_words(folder: Path) -> WordList:
    """Read the words of an index.

    Args:
        folder: Of the index.

    Raises:
        DataError: The file is missing or damaged.
    """
    try:
        found: dict[str, Any] = json.loads((folder / WORDS).read_text(encoding="utf-8"))
        words: Sequence[Any] = found["words"]
        return WordList(tuple(str(word) for word in words), str(found["version"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(message(f"{folder / WORDS} is damaged ({error})", fix="make the index anew")) from error


def words_of(text: Any) -> WordList | None:
    """Return the words of a model, or None where its vectors are not over words.

    Args:
        text: The text side of its export; that of a lexical model has a ``lexicon``.
    """
    lexicon: Any = getattr(text, "lexicon", None)
    return None if lexicon is None else WordList(tuple(lexicon.words), str(lexicon.version))


def words_or_refuse(text: Any, run: str) -> WordList:
    """Return the words that a model's vectors are over.

    Args:
        text: The text side of its export.
        run: Its run, for the error.

    Raises:
        ConfigError: Its vectors are not over words.
    """
    words = words_of(text)
    if words is None:
        fix = "train a recipe with towers.head of kind lexical"
        raise ConfigError(message(f"the model of run {run} has no words", fix=fix))
    return words
