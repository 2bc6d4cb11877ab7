"""The phrase search against a slow one, and what must hold for any captions."""

from itertools import pairwise

import numpy as np
import pytest

from assets.concepts import phrase
from assets.concepts.concept_list import Concept
from assets.concepts.csr import Csr
from assets.concepts.phrase import PhraseMatcher, PhraseSearch
from assets.concepts.words import forms, name_words, words
from tests.assets.concepts.case_a import lists_of

WORDS = ["dog", "dogs", "Cat", "cats", "hot", "polar", "bear", "BEARS", "leaf", "leaves", "caf\u00e9", "2", "mice", "-"]


def draw(seed: int, count: int, longest: int) -> list[str]:
    generator = np.random.default_rng(seed)
    sizes = generator.integers(0, longest + 1, count)
    return [" ".join(generator.choice(WORDS, size)) for size in sizes]


def listed(seed: int) -> list[Concept]:
    """Concepts of one to three words, half of them with an alias."""
    names = [name for name in draw(seed, 40, 3) if words(name)]
    return [Concept(name, tuple(names[at + 1 : at + 1 + at % 2]), "") for at, name in enumerate(names)]


def slow(concepts: list[Concept], caption: str) -> list[int]:
    """Every name against every place."""
    there = [forms(word) for word in words(caption)]
    found: list[int] = []
    for number, concept in enumerate(concepts):
        phrases = [[forms(word) for word in name_words(name)] for name in (concept.name, *concept.aliases)]
        places = [(wanted, there[at : at + len(wanted)]) for wanted in phrases for at in range(len(there))]
        if any(len(a) == len(b) and all(map(frozenset.__and__, a, b)) for a, b in places):
            found.append(number)
    return found


@pytest.fixture(params=range(3))
def case(request: pytest.FixtureRequest) -> tuple[list[Concept], list[str]]:
    return listed(request.param), draw(100 + request.param, 200, 12)


def test_it_finds_what_a_slow_search_finds(case):
    concepts, captions = case
    found = PhraseSearch(concepts).find(captions)
    assert lists_of(found) == [slow(concepts, caption) for caption in captions]
    assert found.pointer.dtype == np.int64 and found.concepts.dtype == np.int32


def test_neither_batches_nor_forgotten_words_matter(case, monkeypatch):
    concepts, captions = case
    wanted = lists_of(PhraseSearch(concepts).find(captions))
    monkeypatch.setattr(phrase, "AT_ONCE", 7)
    monkeypatch.setattr(phrase, "_REMEMBERED", 1)
    assert lists_of(PhraseSearch(concepts).find(captions)) == wanted


def test_counts_of_shards_add_up_and_captions_never_lower_them(case):
    concepts, captions = case
    search, size = PhraseSearch(concepts), len(case[0])
    counts = [search.find(captions[:end]).counts(size) for end in range(0, len(captions) + 1, 50)]
    assert all((after >= before).all() for before, after in pairwise(counts))
    assert counts[-1].tolist() == (counts[2] + search.find(captions[100:]).counts(size)).tolist()


def test_no_captions_have_no_rows_and_absent_ones_are_empty():
    search = PhraseSearch([Concept("cat", (), "")])
    assert len(search.find([])) == 0
    assert lists_of(search.find([None, "cat", None])) == [[], [0], []]


def test_names_do_not_reach_across_captions():
    search = PhraseSearch([Concept("polar bear", (), "")])
    assert lists_of(search.find(["polar", "bear", "a polar", "bear polar"])) == [[], [], [], []]


def test_names_inside_of_names_and_overlapping_ones_are_all_found():
    search = PhraseSearch([Concept(name, (), "") for name in ("bear", "polar bear", "bear cub", "polar bear cub food")])
    assert lists_of(search.find(["a polar bear cub"])) == [[0, 1, 2]]


def test_names_of_scripts_without_blanks_are_found_inside_of_text():
    search = PhraseSearch([Concept("\u72ac", (), ""), Concept("\u30e9\u30a4\u30aa\u30f3", (), "")])
    captions = ["\u72ac\u304c\u8d70\u308b", "\u30e9\u30a4\u30aa\u30f3\u3068\u72ac", "\u30e9\u30a4\u30f3"]
    assert lists_of(search.find(captions)) == [[0], [0, 1], []]


def test_two_concepts_may_have_one_name():
    search = PhraseSearch([Concept("seal", (), "animal"), Concept("stamp", ("seal",), "thing")])
    assert lists_of(search.find(["two seals"])) == [[0, 1]]


def test_a_list_of_no_concepts_finds_nothing():
    assert lists_of(PhraseSearch([]).find(["a dog", ""])) == [[], []]


def test_tokens_may_be_anything_that_has_forms():
    matcher = PhraseMatcher([(5, [frozenset({"a"}), frozenset({"b", "c"})])], lambda token: frozenset(map(str, token)))
    assert matcher.find([("x",), ("z", "a"), ("c",)]) == [5] and matcher.find([("a",)]) == []
    assert isinstance(matcher.find_ended([]), Csr)
