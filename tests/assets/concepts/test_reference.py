import importlib

import pytest

from assets.concepts.concept_list import Concept
from assets.concepts.reference import ReferenceSearch, Tagged, index_nouns, look_up, terms
from assets.errors import ConfigError
from tests.assets.concepts.case_a import CASE, PAIRS

NAMES = CASE["concepts"].tolist()
LEMMAS = dict(zip(CASE["query_terms"].tolist(), CASE["query_lemmas"].tolist(), strict=True))


@pytest.fixture(scope="module")
def index():
    documents: list[list[Tagged]] = [[] for _ in range(PAIRS)]
    for row, lemma, pos in zip(CASE["tok_doc"], CASE["tok_lemma"], CASE["tok_pos"], strict=True):
        documents[row].append(Tagged(str(lemma), str(pos)))
    return index_nouns(documents)


def test_the_index_is_the_published_one_without_its_repeated_first_rows(index):
    pointer, rows = CASE["index_ptr"].tolist(), CASE["index_docs_raw"].tolist()
    keys = CASE["index_keys"].tolist()
    wanted = {key: set(rows[a:b]) for key, a, b in zip(keys, pointer[:-1], pointer[1:], strict=True)}
    assert index == wanted


@pytest.mark.parametrize(
    ("variant", "name"), [("lemmatised", "lemmatized"), ("lowercased", "lowercased"), ("sharded", "chunked")]
)
def test_counts_are_the_published_ones(index, variant, name):
    counts = [len(look_up(concept, index, LEMMAS.__getitem__, variant)) for concept in NAMES]
    assert counts == CASE[f"text_counts_ref_{name}"].tolist()


def test_hits_are_the_published_ones(index):
    pointer, rows = CASE["text_hits_ptr"].tolist(), CASE["text_hits"].tolist()
    for number, concept in enumerate(NAMES):
        assert sorted(look_up(concept, index, LEMMAS.__getitem__)) == rows[pointer[number] : pointer[number + 1]]


def test_case_matters_to_it(index):
    lower = index_nouns(
        [[Tagged(key.lower(), "NOUN") for key, rows in index.items() if row in rows] for row in range(PAIRS)]
    )
    assert len(look_up("Paris", lower, LEMMAS.__getitem__)) > len(look_up("Paris", index, LEMMAS.__getitem__))


def test_names_are_cut_at_blanks_and_underscores():
    assert terms("Sea_Lion  (big)") == ["sea", "lion", "(big)"]


def test_without_spacy_it_says_what_to_install(monkeypatch):
    def missing(name: str):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ConfigError, match="set policy to phrase"):
        ReferenceSearch([Concept("cat", (), "")])
