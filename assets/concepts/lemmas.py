"""The base form of an English word: "dogs" and "dog" are one concept.

The word stands alone, so that each distinct word is looked up once. The price is that "leaves" cannot be told from
"leaves": words with a verb's and a noun's reading are taken for the noun where pictures show the noun.
"""

import re

import simplemma

_ENGLISH = re.compile("[a-z]{2,40}")
_NOUNS = {
    "calves": "calf",
    "halves": "half",
    "leaves": "leaf",
    "lenses": "lens",
    "loaves": "loaf",
    "shelves": "shelf",
    "thieves": "thief",
    "wives": "wife",
}
"""Plurals that the word list takes for verbs, or for forms of no word."""


def lemma(word: str) -> str:
    """Return the base form of a word.

    Args:
        word: In lower case.

    Returns:
        The base form, in lower case and of letters alone; the word itself where it is of other letters than a-z, or
        where none is known.
    """
    if not _ENGLISH.fullmatch(word):
        return word
    found = _NOUNS.get(word) or simplemma.lemmatize(word, lang="en").lower()
    return found if _ENGLISH.fullmatch(found) else word
