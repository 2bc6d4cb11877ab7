import pytest

from assets.concepts.lemmas import lemma
from assets.concepts.words import END, cut_captions, forms, name_words, words


def test_captions_are_cut_one_after_another_each_with_an_end():
    assert cut_captions(["Two dogs.", "", None, "caf\u00e9"]) == ["two", "dogs", END, END, END, "caf\u00e9", END]
    assert cut_captions([]) == []


def test_what_parts_records_inside_of_a_caption_parts_words_only():
    assert cut_captions(["a\x1eb", "c", "\u00e9\x1ed"]) == ["a", "b", END, "c", END, "\u00e9", "d", END]


@pytest.mark.parametrize("text", ["Dog's T-shirt_2 (50% OFF!)", "IMG_4412.JPG", " . \n\t ", "a.b c\x0bd"])
def test_ascii_text_is_cut_the_same_beside_other_text(text):
    assert words(text + " \u00e9")[:-1] == words(text)
    assert all(word.isalnum() and word == word.lower() for word in words(text))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("caf\u00e9", "CAFE\u0301"),  # an accent of its own
        ("\ufb01sh", "FISH"),  # a ligature
        ("\uff24\uff2f\uff27 \uff11", "dog 1"),  # wide letters
        ("stra\u00dfe", "STRASSE"),
        ("\u0645\u06cc\u200c\u0631\u0648\u0645", "\u0645\u06cc\u0631\u0648\u0645"),  # a joiner
        ("1\ufe0f\u20e3 \u2764\ufe0f", "1"),  # a key cap and a heart
        ("air\u00adport", "airport"),  # a soft hyphen
    ],
)
def test_spellings_of_one_text_are_cut_into_the_same_words(one, other):
    assert words(one) == words(other) != []


def test_marks_stay_on_their_letters():
    hindi = "\u0939\u093f\u0928\u094d\u0926\u0940"
    assert words(f"{hindi}, {hindi}") == [hindi, hindi]


def test_scripts_without_blanks_are_cut_into_signs():
    assert words("\u72ac\u304c\u8d70\u308bdog") == ["\u72ac", "\u304c", "\u8d70", "\u308b", "dog"]


def test_broken_surrogates_part_words():
    assert words("a\ud800b") == ["a", "b"]


def test_what_stands_in_parentheses_is_no_part_of_a_name():
    assert name_words("kite (bird (of) prey)") == ["kite"]
    assert name_words("kite \uff08bird\uff09 toy") == ["kite", "toy"]
    assert name_words("()") == []


@pytest.mark.parametrize(
    ("word", "base"),
    [("dogs", "dog"), ("mice", "mouse"), ("leaves", "leaf"), ("lenses", "lens"), ("cherries", "cherry")],
)
def test_plurals_have_their_noun_for_base_form(word, base):
    assert lemma(word) == base and forms(word) == {word, base}


@pytest.mark.parametrize("word", ["bus", "glass", "a310", "737", "t", "caf\u00e9", "zqxv", "x" * 99])
def test_words_without_another_base_form_stay(word):
    assert lemma(word) == word
