"""The published search with a tagger that knows the fixture's captions, in place of spaCy's."""

import importlib
from types import SimpleNamespace

import pytest

from assets.concepts.concept_list import Concept
from assets.concepts.reference import ReferenceSearch
from assets.errors import ConfigError
from tests.assets.concepts.case_a import CASE, PAIRS, from_postings, lists_of

CAPTIONS = CASE["captions"].tolist()
NAMES = CASE["concepts"].tolist()


class Tagger:
    """Tells lemmas and parts of speech of the fixture."""

    def __init__(self):
        self._words = {caption: [] for caption in CAPTIONS}
        for row, lemma, pos in zip(CASE["tok_doc"], CASE["tok_lemma"], CASE["tok_pos"], strict=True):
            self._words[CAPTIONS[row]].append(SimpleNamespace(lemma_=str(lemma), pos_=str(pos)))
        told = zip(CASE["query_terms"].tolist(), CASE["query_lemmas"].tolist(), strict=True)
        # spaCy cuts a term into several tokens at times, of which the last one's lemma counts
        self._terms = {term: [SimpleNamespace(lemma_="first"), SimpleNamespace(lemma_=lemma)] for term, lemma in told}

    def pipe(self, captions):
        return [self._words[caption] for caption in captions]

    def __call__(self, term):
        return self._terms[term]


def with_models(monkeypatch, *models):
    def load(name, **_):
        assert name in models
        return Tagger()

    spacy = SimpleNamespace(util=SimpleNamespace(is_package=models.__contains__), load=load)
    monkeypatch.setattr(importlib, "import_module", {"spacy": spacy}.__getitem__)


def test_hits_of_captions_are_the_published_ones(monkeypatch):
    with_models(monkeypatch, "en_core_web_sm")
    found = ReferenceSearch([Concept(name, (), "") for name in NAMES]).find(CAPTIONS)
    assert len(found) == PAIRS and lists_of(found) == lists_of(from_postings("text_hits"))


def test_without_a_model_it_says_how_to_get_one(monkeypatch):
    with_models(monkeypatch)
    with pytest.raises(ConfigError, match="spacy download en_core_web_lg"):
        ReferenceSearch([Concept("cat", (), "")])
