"""Which words are true of a picture or of a caption, singular and plural alike."""

import importlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

from evaluation.scene_objects import scene_objects

_NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_PLACES = frozenset(
    "above behind below beneath beside bottom center centre corner front inside left lower middle near next outside "
    "over right top under upper".split()
)
_SINGULAR = ("us", "is", "ss")
# in names such as "statue of liberty" they say nothing of the picture
_SMALL = frozenset("a an and at behind by for from in of on or over the to under with without".split())


def words_in(text: str) -> list[str]:
    """Return the words of a text in lower case, in order."""
    return re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?", text.casefold())


class WordForms:
    """Singular and plural of English words."""

    def __init__(self) -> None:
        """Load the rules of the language, which takes some seconds."""
        self._engine: Any = importlib.import_module("inflect").engine()
        self._known: dict[str, frozenset[str]] = {}

    def forms(self, word: str) -> frozenset[str]:
        """Return a word in lower case, its plural, and its singular if it is one."""
        lower = word.casefold()
        if lower not in self._known:
            # the rules take "bus" for the plural of "bu"
            singular = False if lower.endswith(_SINGULAR) else self._engine.singular_noun(lower)
            # what is a plural already has no plural of its own
            self._known[lower] = frozenset({lower, str(singular or self._engine.plural_noun(lower))})
        return self._known[lower]

    def close(self, words: Iterable[str]) -> frozenset[str]:
        """Return some words with all their forms."""
        return frozenset(form for word in words for form in self.forms(word))

    def of_name(self, name: str) -> frozenset[str]:
        """Return the words of an object's name with their forms, without small words such as ``of``."""
        words = words_in(name)
        return self.close([word for word in words if word not in _SMALL] or words)

    def of_head(self, name: str) -> frozenset[str]:
        """Return the last word of an object's name with its forms: ``ball`` and ``balls`` of ``soccer ball``."""
        return self.close(words_in(name)[-1:])

    def of_picture(self, metadata: Mapping[str, Any]) -> frozenset[str]:
        """Return the words that are true of a picture.

        Args:
            metadata: Its KEY.json: names and colours of ``objects``, ``counts``, colour and texture of ``background``,
                and the places that ``clean_caption`` names.
        """
        objects = scene_objects(metadata)
        found = {form for item in objects for form in self.of_name(item.name)}
        found |= self.close(word for item in objects for word in words_in(item.colour))
        background = _mapping(metadata.get("background"))
        texts = [background.get(part) for part in ("colour", "texture")]
        found |= self.close(word for text in texts if isinstance(text, str) for word in words_in(text))
        for count in _mapping(metadata.get("counts")).values():
            if isinstance(count, int) and 2 <= count < 2 + len(_NUMBERS):
                found.add(_NUMBERS[count - 2])
        caption = metadata.get("clean_caption")
        found |= _PLACES & set(words_in(caption) if isinstance(caption, str) else ())
        return frozenset(found)


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}
