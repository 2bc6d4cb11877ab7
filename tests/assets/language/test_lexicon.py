import json
from dataclasses import replace

import numpy as np
import pytest

from assets.errors import DataError
from assets.language.lexicon import CODEBOOK, VOCABULARY, Lexicon, has_lexicon, read_lexicon, write_lexicon

FACTS = {"model": "toy", "model_digest": "0" * 16, "prompt": "1" * 16}


@pytest.fixture
def lexicon() -> Lexicon:
    codebook = np.arange(12, dtype=np.float32).reshape(3, 4) / 7
    return Lexicon(("red", "na\u00efve", "apple"), (3, 5, 8), codebook, 0.1 + 0.2, (4, 0, 9), FACTS)


def test_what_is_written_is_read(tmp_path, lexicon):
    assert not has_lexicon(tmp_path)
    write_lexicon(tmp_path / "new", lexicon)
    assert has_lexicon(tmp_path / "new")
    found = read_lexicon(tmp_path / "new")
    for name in ("words", "ids", "scale", "counts", "facts", "version"):
        assert getattr(found, name) == getattr(lexicon, name)
    assert found.codebook.dtype == np.float32 and np.array_equal(found.codebook, lexicon.codebook)


def test_the_bytes_depend_on_the_content_alone(tmp_path, lexicon):
    write_lexicon(tmp_path / "one", lexicon)
    write_lexicon(tmp_path / "two", replace(lexicon, facts=dict(reversed(FACTS.items()))))
    for name in (VOCABULARY, CODEBOOK):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_word_has_a_place_and_a_stranger_none(lexicon):
    assert [lexicon.place(word) for word in (*lexicon.words, "pear", "")] == [0, 1, 2, None, None]


@pytest.mark.parametrize(
    "change",
    [
        {"words": ("red", "naive", "apple")},
        {"ids": (3, 5, 9)},
        {"facts": {**FACTS, "model_digest": "2" * 16}},
        {"facts": {**FACTS, "prompt": "2" * 16}},
    ],
)
def test_the_version_tells_what_positions_mean(lexicon, change):
    assert replace(lexicon, **change).version != lexicon.version


def test_the_version_does_not_tell_how_often_words_occur(lexicon):
    assert replace(lexicon, counts=(1, 1, 1), scale=2.0).version == lexicon.version
    assert len(lexicon.version) == 16


def no_codebook(folder):
    (folder / CODEBOOK).unlink()


def cut_codebook(folder):
    (folder / CODEBOOK).write_bytes((folder / CODEBOOK).read_bytes()[:-8])


def short_codebook(folder):
    np.save(folder / CODEBOOK, np.ones((2, 4), dtype=np.float32))


def half_codebook(folder):
    np.save(folder / CODEBOOK, np.ones((3, 4), dtype=np.float16))


def infinite_codebook(folder):
    np.save(folder / CODEBOOK, np.full((3, 4), np.inf, dtype=np.float32))


def told(**changes):
    def damage(folder):
        path = folder / VOCABULARY
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return damage


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (no_codebook, "no readable vocabulary.json and codebook.npy"),
        (cut_codebook, "no readable vocabulary.json and codebook.npy"),
        (short_codebook, r"wrong array, got 'float32 \[2, 4\]', wanted float32 \[3, D\]"),
        (half_codebook, "wrong array, got 'float16"),
        (infinite_codebook, "not finite"),
        (told(words=None), "no readable"),
        (told(scale=0.0), "not above 0"),
        (told(counts=[1]), "3 words, 3 ids and 1 counts"),
        (told(words=["red", "red", "apple"]), "no word twice"),
        (told(words=["red", "blue", "apple"]), "was changed after it was written"),
    ],
)
def test_damage_is_named(tmp_path, lexicon, damage, fault):
    write_lexicon(tmp_path, lexicon)
    damage(tmp_path)
    with pytest.raises(DataError, match=fault):
        read_lexicon(tmp_path)
