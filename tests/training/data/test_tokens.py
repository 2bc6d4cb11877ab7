import functools
import html
import pickle
import random

import emoji
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer

from training.data import tokens
from training.data.tokens import CaptionTokenizer, OpenClipTokenizer

LANGUAGES = ("en", "es", "pt", "it", "fr", "de", "fa", "id", "zh", "ja", "ko", "ru", "ar", "tr")
WORDS = (
    "a the dog's cat they'll we'VE I'm 'S o'clock don't 1984 3,5 $9.99 e-mail ice-cream #tag @home 50% C++ (un)usual"
    " https://example.org/a_b?c=d&e=f IMG_0001.JPG supercalifragilisticexpialidocious <b>bold</b> &amp; &lt;i&gt; AT&T"
    " <start_of_text> <END_OF_TEXT> end<end_of_text>less ... !!?! -- \\ ~ ` |"
).split()


@functools.cache
def original(context: int = 77) -> SimpleTokenizer:
    return SimpleTokenizer(context_length=context)


@functools.cache
def ours(context: int = 77) -> CaptionTokenizer:
    return CaptionTokenizer(context)


def check(captions: list[str], context: int = 77) -> None:
    wanted, (found, cut) = original(context)(captions), ours(context).encode(captions)
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    different = [caption for caption, row, other in zip(captions, wanted, found, strict=True) if not row.equal(other)]
    assert not different, different[:3]
    assert cut.tolist() == [len(original().encode(caption)) + 2 > context for caption in captions]


def sentences(count: int, alphabet: list[str], seed: int) -> list[str]:
    draws = random.Random(seed)
    blanks = [" ", " ", " ", "  ", "\t", "\n", "\u00a0", "\u3000", "\x1c", "\u2028", ""]
    return [
        "".join(draws.choice(alphabet) + draws.choice(blanks) for _ in range(draws.randrange(25))) for _ in range(count)
    ]


@pytest.mark.slow
def test_english_captions_have_the_ids_of_the_original():
    check(sentences(2000, WORDS, 0))
    check([" ".join(draws) for draws in (random.Random(i).choices(WORDS, k=17) for i in range(1000))])


def test_every_printable_character_has_the_ids_of_the_original():
    check([chr(code) for code in range(0x250)])
    check([f"a{chr(code)}b {chr(code)}{chr(code)}" for code in range(0x80)])


@pytest.mark.parametrize("language", LANGUAGES)
def test_emoji_and_their_names_in_every_language_have_the_ids_of_the_original(language):
    emoji.config.load_language(language)
    names = [(sign, data[language]) for sign, data in emoji.EMOJI_DATA.items() if language in data][::12]
    assert len(names) > 100
    check([f"{sign} {name.strip(':').replace('_', ' ')}{sign}" for sign, name in names])


@pytest.mark.slow
def test_texts_that_need_cleaning_have_the_ids_of_the_original():
    ascii_words = [html.escape(word) for word in WORDS]
    check(sentences(200, ascii_words, 1) + sentences(100, [html.escape(word) for word in ascii_words], 2))
    odd = [
        "caf\u00e9",
        "cafe\u0301",
        "caf\u00c3\u00a9",
        "\u201cquoted\u201d",
        "\u2019s",
        "\ufb01ne",
        "\uff26\uff35\uff2c\uff2c",
    ]
    odd += [
        "\u017f",
        "'\u017f",
        "\u0130stanbul",
        "\u03a3\u03a3",
        "o\u03a3",
        "\u1e9e",
        "\x85",
        "\x1b[31mred\x1b[0m",
        "\ud83d",
        "\0",
    ]
    odd += [
        "\u200b",
        "\u0e20\u0e32\u0e29\u0e32",
        "\u0939\u093f\u0928\u094d\u0926\u0940",
        "\U0001f469\u200d\U0001f52c",
        "&nbsp;",
        "&#39;s",
    ]
    odd += ["x\u00b2", "\u2460", "\u0663", "e\u0301\u0301"]
    check(odd + sentences(1000, [*odd, *WORDS[:20]], 3))


def test_random_characters_of_all_scripts_have_the_ids_of_the_original():
    draws = random.Random(4)
    blocks = [(0x20, 0x7F), (0xA0, 0x250), (0x370, 0x600), (0x900, 0x1000), (0x2000, 0x2C00), (0x3040, 0x9FFF)]
    blocks += [(0xAC00, 0xD7A4), (0xF900, 0xFFFF), (0x1F000, 0x1FB00)]
    texts = []
    for _ in range(1000):
        first, last = draws.choice(blocks)
        texts.append("".join(chr(draws.randrange(first, last)) for _ in range(draws.randrange(1, 40))))
    check(texts)


@pytest.mark.parametrize("context", [2, 8, 77])
def test_long_captions_are_cut_and_keep_the_end_token(context):
    captions = ["", " ", "dog", "a dog " * 200, "donaudampfschifffahrt" * 40, "\u4e2d\u6587" * 300]
    captions += [" ".join(["dog"] * count) for count in range(context - 4, context + 2)]
    check(captions, context)
    text, cut = ours(context).encode(captions)
    assert text[cut][:, -1].tolist() == [49407] * int(cut.sum())
    assert text[0].tolist() == [49406, 49407] + [0] * (context - 2)


def test_no_captions_make_no_rows():
    text, cut = ours().encode([])
    assert text.shape == (0, 77)
    assert cut.shape == (0,)


def test_forgetting_words_changes_nothing(monkeypatch):
    monkeypatch.setattr(tokens, "_MOST_WORDS", 7)
    tokenizer = CaptionTokenizer(77)
    captions = sentences(100, [word for word in WORDS if word.isalnum()], 5)
    assert torch.equal(tokenizer.encode(captions)[0], original()(captions))
    assert len(tokenizer._words) <= 7


def test_a_tokenizer_travels_to_a_loader_process():
    copy = pickle.loads(pickle.dumps(ours().encode))
    assert torch.equal(copy(WORDS)[0], original()(WORDS))


def test_the_vocabulary_lets_words_be_merged_in_any_order():
    """What the fast merging relies on: a token is made by one merge, and used only by later ones."""
    ranks = original().bpe_ranks
    made = {left + right: rank for (left, right), rank in ranks.items()}
    assert len(made) == len(ranks)
    assert all(made.get(part, -1) < rank for pair, rank in ranks.items() for part in pair)


def test_another_tokenizer_of_open_clip_says_which_captions_fill_the_context():
    original = SimpleTokenizer(context_length=8, clean="canonicalize")
    text, cut = OpenClipTokenizer(original, 0).encode(["A red, red apple!", "one two three four five six seven eight"])
    assert text.tolist() == original(["a red red apple", "one two three four five six seven eight"]).tolist()
    assert cut.tolist() == [False, True]
