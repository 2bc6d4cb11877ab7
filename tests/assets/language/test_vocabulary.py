import pytest
from pydantic import ValidationError

from assets.errors import ConfigError
from assets.language.vocabulary import Vocabulary, VocabularyRule, choose_words
from tests.assets.language.toy_words import MARK, WORDS, word_tokenizer

CAPTIONS = {"A red apple.": 2, "red lorry, Red bridge": 1, "an apple-green redish thing": 1, "two dogs on a truck": 3}


def choose(word_start: bool = True, captions=CAPTIONS, tokenizer=None, **values) -> Vocabulary:
    rule = VocabularyRule(**({"common": 0, "corpus": True, "min_count": 1, "min_letters": 2} | values))
    return choose_words(tokenizer or word_tokenizer(), word_start, rule, captions)


def test_words_of_captions_are_counted_once_per_caption_and_as_wholes():
    chosen = choose()
    counts = dict(zip(chosen.words, chosen.counts, strict=True))
    wanted = {"red": 3, "green": 1, "apple": 3, "lorry": 1, "bridge": 1, "dogs": 3, "truck": 3, "on": 3}
    assert counts == wanted  # neither "re", which is a piece, nor the "red" of "redish"


@pytest.mark.parametrize("word_start", [True, False])
def test_pieces_are_those_that_the_prompt_leads_to_in_the_order_of_their_ids(word_start):
    chosen = choose(word_start)
    pieces = word_tokenizer().convert_ids_to_tokens(list(chosen.ids))
    assert pieces == [(MARK if word_start else "") + word for word in chosen.words]
    assert list(chosen.ids) == sorted(set(chosen.ids)) and len(set(chosen.words)) == len(WORDS)


def test_the_common_ones_are_the_first_of_the_tokenizer():
    # merges go letter by letter: r, re, red, g, gr, ...
    chosen = choose(common=5, corpus=False)
    assert chosen.words == ("re", "red", "gr", "gre", "gree")
    assert chosen.counts == (0, 3, 0, 0, 0)
    assert choose(common=5, min_count=100).words == chosen.words


def test_common_and_corpus_words_join_without_repeats():
    chosen = choose(common=2, min_count=3)
    assert chosen.words == ("re", "red", "apple", "dogs", "truck", "on")


def test_short_words_and_rare_ones_are_left_out():
    assert choose(min_letters=3, min_count=2).words == ("red", "apple", "dogs", "truck")


def test_the_order_of_captions_does_not_matter():
    assert choose(captions=dict(reversed(CAPTIONS.items()))) == choose()


def test_captions_in_other_scripts_add_nothing():
    others = {"\u4e00\u53ea\u72d7": 1, "\u062a\u0641\u0627\u062d\u0629": 1, "": 1, "\U0001f34e 12": 1}
    assert choose(captions={**CAPTIONS, **others}) == choose()


def test_a_tokenizer_without_word_starts_is_refused_only_where_they_are_needed():
    unmarked = word_tokenizer(mark=False)
    assert set(choose(False, tokenizer=unmarked).words) == set(WORDS)
    # its only piece with the mark is the space itself
    with pytest.raises(ConfigError, match=r"no piece with a word-start mark.*quoted"):
        choose(True, tokenizer=unmarked)


def test_an_empty_vocabulary_is_refused():
    with pytest.raises(ConfigError, match=r"no word is left for the vocabulary, got '.* none in 50 captions'"):
        choose(min_count=50)
    with pytest.raises(ValidationError, match="a vocabulary of no words"):
        choose(corpus=False)
