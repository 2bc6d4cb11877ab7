"""Policy ``reference``: the published text search, with its quirks, for comparisons with published counts.

Repository bethgelab/frequency_determines_performance: nouns and proper nouns of a caption are indexed by their lemma,
of which letters alone stay and case is kept. The words of a name are lower-cased, each is looked up by its lemma out of
context, those that the index lacks are dropped, and the captions that have all others count. So "France" has none where
captions write it with a capital, "polar bear" counts captions that mention both words anywhere, and on a small corpus
those of any bear. One published variant looks the plain word up instead of its lemma; another, for sharded corpora,
drops words that are no key themselves and then looks up the lemma.
"""

import importlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

from assets.concepts.concept_list import Concept
from assets.concepts.csr import Csr
from assets.errors import ConfigError, message

NOUNS = frozenset({"NOUN", "PROPN"})
MODELS = ("en_core_web_lg", "en_core_web_md", "en_core_web_sm")
"""Models of spaCy, the published one first."""
Variant = Literal["lemmatised", "lowercased", "sharded"]
Index = dict[str, set[int]]
_NO_LETTER = re.compile(r"[^A-Za-z ]")
_TERM = re.compile(r"[_\s]+")


class Tagged(NamedTuple):
    """A word of a caption.

    Attributes:
        lemma: Its dictionary form.
        pos: Its part of speech, of the Universal Dependencies.
    """

    lemma: str
    pos: str


def index_nouns(captions: Iterable[Iterable[Tagged]]) -> Index:
    """Index captions by their nouns.

    Args:
        captions: The words of each.

    Returns:
        Lemma, letters alone -> rows of captions.
    """
    index: Index = {}
    for row, tagged in enumerate(captions):
        for word in tagged:
            if word.pos in NOUNS:
                index.setdefault(_NO_LETTER.sub("", word.lemma), set()).add(row)
    return index


def terms(name: str) -> list[str]:
    """Cut the name of a concept as the published scripts do."""
    return [term for term in _TERM.split(name.lower()) if term]


def look_up(name: str, index: Index, lemma_of: Callable[[str], str], variant: Variant = "lemmatised") -> set[int]:
    """Return the captions of a concept.

    Args:
        name: Of the concept.
        index: Of :func:`index_nouns`.
        lemma_of: Lemma of a word out of context.
        variant: Which of the published searches.
    """
    asked = terms(name)
    if variant == "sharded":
        asked = [term for term in asked if term in index]
    keys = asked if variant == "lowercased" else [lemma_of(term) for term in asked]
    found = [index[key] for key in keys if key in index]
    return set.intersection(*found) if found else set()


class ReferenceSearch:
    """Finds concepts in captions, all of which it must see at once: what the index lacks depends on them."""

    def __init__(self, concepts: Sequence[Concept]) -> None:
        """Load the tagger.

        Args:
            concepts: In list order; aliases are no part of the published search.

        Raises:
            ConfigError: spaCy, or a model of it, is not installed.
        """
        self._names = [concept.name for concept in concepts]
        self._nlp = _load()

    def find(self, captions: Sequence[str]) -> Csr:
        """Find concepts.

        Args:
            captions: All captions, [n].

        Returns:
            The concepts of every caption, n rows.
        """
        parsed = self._nlp.pipe([caption or "" for caption in captions])
        index = index_nouns([Tagged(token.lemma_, token.pos_) for token in document] for document in parsed)
        rows: list[list[int]] = [[] for _ in captions]
        for concept, name in enumerate(self._names):
            for row in look_up(name, index, self._lemma):
                rows[row].append(concept)
        return Csr.of_rows(rows)

    def _lemma(self, term: str) -> str:
        """Return the lemma of the last of what the tagger cuts a term into, as the published search does."""
        return [token.lemma_ for token in self._nlp(term)][-1]


def _load() -> Any:
    """Load the best model that is installed."""
    try:
        spacy: Any = importlib.import_module("spacy")
    except ImportError as error:
        fix = 'install spacy and a model of it ("python -m spacy download en_core_web_lg"), or set policy to phrase'
        raise ConfigError(
            message("policy reference tags captions with spaCy, which is not installed", fix=fix)
        ) from error
    for name in MODELS:
        if spacy.util.is_package(name):
            return spacy.load(name, disable=["parser", "ner"])
    fix = f'"python -m spacy download {MODELS[0]}", or set policy to phrase'
    raise ConfigError(message("policy reference needs an English model of spaCy", "none", ", ".join(MODELS), fix))
