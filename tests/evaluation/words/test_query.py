import pytest

from assets.errors import ConfigError, DataError
from evaluation.words.query import Asked, numbers, parse_words
from evaluation.words.word_list import WordList, read_words, words_of

WORDS = WordList(("apple", "red", "cherry", "fruit", "t-shirt", "Paris"), "v1")


def test_words_have_weights_and_conditions():
    asked = parse_words("apple red^2.5 -cherry +fruit", WORDS)
    assert asked.weights == {0: 1.0, 1: 2.5, 3: 1.0}
    assert (asked.must, asked.must_not) == ((3,), (2,))


def test_a_word_named_twice_weighs_twice():
    assert parse_words("red +red^3", WORDS) == Asked("red +red^3", {1: 4.0}, (1,))


def test_hyphens_and_capitals_inside_words_are_letters():
    assert parse_words("t-shirt Apple Paris", WORDS).weights == {4: 1.0, 0: 1.0, 5: 1.0}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("aple", "'aple' is none of the model's 6 words; the nearest are apple"),
        ("xyzzy", "none is near"),
        ("-cherry", "at least one word that is wanted"),
        ("  ", "query is empty"),
        ("red^", "a number above 0"),
        ("red^-1", "a number above 0"),
        ("red^two", "a number above 0"),
        ("red^nan", "a number above 0"),
        ("red -cherry^2", "excludes a word"),
        ("red +", "'+' is none of the model's 6 words"),
        ("+red -red", "must and must not be there"),
    ],
)
def test_what_is_wrong_with_a_query_is_told(text, told):
    with pytest.raises(ConfigError) as error:
        parse_words(text, WORDS)
    assert told in str(error.value)


def test_further_conditions_are_looked_up_too():
    assert numbers(["red", "fruit"], WORDS) == (1, 3)
    with pytest.raises(ConfigError, match="the nearest are cherry"):
        numbers(["chery"], WORDS)


def test_words_come_back_from_disk(tmp_path):
    WORDS.save(tmp_path)
    assert read_words(tmp_path) == WORDS
    (tmp_path / "words.json").write_text("{}")
    with pytest.raises(DataError, match="is damaged"):
        read_words(tmp_path)


def test_a_text_side_without_a_lexicon_has_no_words():
    assert words_of(object()) is None
