"""Retrieval with several captions per picture."""

import numpy as np
import pytest

from evaluation.multi_caption import _chances, both_ways, image_hits, text_hits


def unit(rng, rows):
    array = rng.normal(size=(rows, 6)).astype(np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def test_hits_equal_a_plain_sort():
    rng = np.random.default_rng(0)
    images, owners = unit(rng, 30), np.repeat(np.arange(30), rng.integers(1, 5, 30))
    texts = unit(rng, len(owners))
    scores = images @ texts.T
    for column, k in enumerate((1, 5, 10)):
        found = [float(row in owners[np.argsort(-scores[row])[:k]]) for row in range(30)]
        assert image_hits(images, texts, owners)[:, column].tolist() == found
        found = [float(owner in np.argsort(-scores[:, row])[:k]) for row, owner in enumerate(owners)]
        assert text_hits(images, texts, owners)[:, column].tolist() == found


def test_the_mean_over_pictures_is_the_mean_over_captions():
    rng = np.random.default_rng(1)
    images, owners = unit(rng, 20), np.repeat(np.arange(20), rng.integers(1, 6, 20))
    texts = unit(rng, len(owners))
    by_caption = text_hits(images, texts, owners).mean(axis=0)
    assert both_ways(images, texts, owners)[:, 3:].mean(axis=0) == pytest.approx(by_caption)


def test_a_model_without_skill_lands_on_chance():
    owners = np.repeat(np.arange(12), np.arange(12) % 3 + 1)
    same = np.ones((1, 1), dtype=np.float32)
    scores = both_ways(np.repeat(same, 12, 0), np.repeat(same, len(owners), 0), owners).mean(axis=0)
    chances = _chances(np.bincount(owners))
    names = [f"{way}_r{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)]
    assert scores == pytest.approx([chances[f"chance_{name}"] for name in names])
    assert chances["chance_image_to_text_r1"] == pytest.approx(1 / 12)
