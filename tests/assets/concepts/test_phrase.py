import re
from typing import NamedTuple

import numpy as np
import pytest

from assets.concepts.concept_list import Concept
from assets.concepts.phrase import PhraseMatcher, PhraseSearch
from assets.concepts.words import forms, name_words, words
from assets.errors import ConfigError
from tests.assets.concepts.case_a import CASE, CONCEPTS, PAIRS, from_postings, lists_of

NAMES = CASE["concepts"].tolist()
CAPTIONS = CASE["captions"].tolist()


class Told(NamedTuple):
    surface: str
    lemma: str


def plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def concepts(*names: str) -> list[Concept]:
    return [Concept(name, (), "") for name in names]


def found(names: list[str], captions: list[str]) -> list[list[int]]:
    return lists_of(PhraseSearch(concepts(*names)).find(captions))


def test_with_the_lemmas_of_the_fixture_the_hits_are_those_of_the_fixture():
    pointer = CASE["fixed_query_ptr"].tolist()
    told = zip(CASE["fixed_query_surface"].tolist(), CASE["fixed_query_lemma"].tolist(), strict=True)
    query = [frozenset(pair) for pair in told]
    phrases = [(number, query[pointer[number] : pointer[number + 1]]) for number in range(CONCEPTS)]
    documents: list[list[Told]] = [[] for _ in range(PAIRS)]
    for row, text, lemma in zip(CASE["tok_doc"], CASE["tok_text"], CASE["tok_lemma"], strict=True):
        if plain(text):
            documents[row].append(Told(plain(text), plain(lemma)))
    matcher = PhraseMatcher(phrases, lambda token: frozenset(form for form in token if form))
    assert [matcher.find(document) for document in documents] == lists_of(from_postings("fixed_text_hits"))


def test_with_our_own_lemmas_they_differ_only_where_forms_do():
    counts = PhraseSearch(concepts(*NAMES)).find(CAPTIONS).counts(CONCEPTS)
    differs = {
        name: int(n) - int(w) for name, n, w in zip(NAMES, counts, CASE["fixed_text_counts"], strict=True) if n != w
    }
    # without context "leaves" is not a form of "leaf", as it may be one of "leave"
    assert set(differs) <= {"leaves", "leaf", "boxing", "braided"} and all(abs(d) <= 2 for d in differs.values())


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("polar bear", "Two Polar BEARS, asleep"),
        ("sea_lion", "a sea-lion on a rock"),
        ("kite (bird of prey)", "a kite above the field"),
        ("737-200", "a Boeing 737-200 takes off"),
        ("café", "outside a cafe\u0301"),
        ("собака", "Белая СОБАКА"),
        ("mouse", "three mice"),
    ],
)
def test_what_counts_as_the_name(name, caption):
    assert found([name], [caption]) == [[0]]


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("polar bear", "a bear near a polar station"),
        ("hot dog", "a dog, hot"),
        ("cat", "a category"),
        ("A310", "A 310"),
    ],
)
def test_what_does_not(name, caption):
    assert found([name], [caption]) == [[]]


def test_empty_captions_have_no_concept_and_keep_their_row():
    assert found(["cat"], ["", "cat", "  ", "?!"]) == [[], [0], [], []]


def test_aliases_count_once_for_their_concept():
    search = PhraseSearch([Concept("soccer ball", ("football", "soccer balls"), "sport")])
    assert lists_of(search.find(["a football and two soccer balls"])) == [[0]]


def test_names_without_letters_are_refused():
    with pytest.raises(ConfigError, match=r"1 names of concepts have no letter.*'\?!'"):
        PhraseSearch(concepts("cat", "?!"))


def test_neither_order_nor_case_nor_shards_matter():
    search = PhraseSearch(concepts(*NAMES))
    rows = lists_of(search.find(CAPTIONS))
    order = np.random.default_rng(0).permutation(PAIRS)
    assert lists_of(search.find([CAPTIONS[place] for place in order])) == [rows[place] for place in order]
    for change in (str.upper, str.lower):
        assert lists_of(search.find([change(caption) for caption in CAPTIONS])) == rows
    assert lists_of(search.find(CAPTIONS[:17])) + lists_of(search.find(CAPTIONS[17:])) == rows


def test_a_name_of_several_words_is_rarer_than_each_of_them():
    several = [name for name in NAMES if len(name_words(name)) > 1]
    singles = sorted({word for name in several for word in name_words(name)})
    counts = PhraseSearch(concepts(*several, *singles)).find(CAPTIONS).counts(len(several) + len(singles))
    of_word = dict(zip(singles, counts[len(several) :].tolist(), strict=True))
    for name, count in zip(several, counts, strict=False):
        assert all(count <= of_word[word] for word in name_words(name))


def test_forms_of_a_word():
    assert words("It's a T-shirt_2") == ["it", "s", "a", "t", "shirt", "2"]
    assert forms("cherries") == {"cherries", "cherry"} and forms("2") == {"2"}
    assert name_words("(none)") == ["none"]
