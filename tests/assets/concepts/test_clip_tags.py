"""Tags by embeddings, on planted pictures whose concepts are known."""

import numpy as np
import pytest

from assets.concepts import clip_tags as module
from assets.concepts.clip_tags import clip_tags
from assets.concepts.misalignment import disjoint
from assets.progress import Stage
from tests.assets.concepts.case_a import lists_of, rows_of

CONCEPTS, PAIRS, WIDTH = 40, 3000, 64
WRONG = 0.1


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def tagged(vectors: np.ndarray, said, size: int = CONCEPTS, precision: float = 0.9):
    with Stage("test") as stage:
        return clip_tags(vectors, rows_of(said), size, precision, stage)


class Planted:
    """Pictures of one to three concepts, Zipf-like; captions name one or more of these, a tenth are of other pictures.

    Vectors point where their concepts do, with noise and a large part that all pictures share, as in real towers.
    """

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        chances = 1 / np.arange(1, CONCEPTS + 1)
        draws = [rng.choice(CONCEPTS, rng.integers(1, 4), False, chances / chances.sum()) for _ in range(PAIRS)]
        self.shown = [sorted(draw.tolist()) for draw in draws]
        concepts, common = unit(rng.normal(size=(CONCEPTS, WIDTH))), 2 * unit(rng.normal(size=WIDTH))
        rows = np.stack([unit(concepts[shown].sum(axis=0)) for shown in self.shown])
        self.vectors = unit(rows + common + 0.4 * rng.normal(size=rows.shape) / np.sqrt(WIDTH)).astype(np.float16)
        said = [shown[: rng.integers(1, len(shown) + 1)] for shown in self.shown]
        self.wrong = np.zeros(PAIRS, dtype=bool)
        moved = rng.choice(PAIRS, int(WRONG * PAIRS), replace=False)
        self.said = list(said)
        for place, source in zip(moved, np.roll(moved, 1), strict=True):
            self.said[place] = said[source]
            self.wrong[place] = not set(said[source]) & set(self.shown[place])


@pytest.fixture(scope="module")
def planted() -> Planted:
    return Planted()


def test_tags_are_what_the_pictures_show(planted):
    found = lists_of(tagged(planted.vectors, planted.said))
    pairs = [(row, tag) for row, tags in enumerate(found) for tag in tags]
    right = sum(tag in planted.shown[row] for row, tag in pairs)
    assert right / len(pairs) > 0.9
    assert right / sum(map(len, planted.shown)) > 0.7


def test_wrong_captions_are_flagged_and_true_ones_are_not(planted):
    flagged = disjoint(rows_of(planted.said), tagged(planted.vectors, planted.said))
    assert 0.05 < planted.wrong.mean() < 0.1
    assert planted.wrong[flagged].mean() > 0.8 and flagged[planted.wrong].mean() > 0.8


def test_vectors_that_know_nothing_of_concepts_tag_and_flag_next_to_nothing(planted):
    blind = unit(np.random.default_rng(1).normal(size=(PAIRS, WIDTH))).astype(np.float16)
    found = tagged(blind, planted.said)
    assert (found.counts(CONCEPTS) > 0).mean() < 0.2
    assert disjoint(rows_of(planted.said), found).mean() < 0.02


def test_more_precision_means_fewer_tags_of_every_concept(planted):
    low, middle, high = (tagged(planted.vectors, planted.said, precision=p).counts(CONCEPTS) for p in (0.6, 0.9, 0.97))
    assert (low >= middle).all() and (middle >= high).all() and low.sum() > high.sum()


def test_a_pair_has_no_say_in_its_own_tags(planted):
    # random pictures whose captions name a concept that nothing shows, and one that no other pair has
    rng = np.random.default_rng(2)
    vectors = unit(rng.normal(size=(300, WIDTH))).astype(np.float16)
    found = lists_of(tagged(vectors, [[0]] * 10 + [[1]] + [[]] * 289, size=2))
    assert not any(0 in tags for tags in found[:10]) and not any(1 in tags for tags in found)


def test_the_fast_scores_are_those_of_prototypes_made_one_by_one(planted):
    size, vectors, said = 200, planted.vectors[:200], planted.said[:200]
    centred = unit(vectors.astype(np.float64) - vectors.astype(np.float64).mean(axis=0))
    wanted = np.full((size, CONCEPTS), -np.inf)
    for row in range(size):
        for concept in range(CONCEPTS):
            others = [other for other in range(size) if other != row and concept in said[other]]
            if others:
                wanted[row, concept] = centred[row] @ unit(centred[others].mean(axis=0))
    pictures = module._Pictures(vectors, vectors.mean(axis=0, dtype=np.float64).astype(np.float32))
    named = np.array([[concept in said[row] for concept in range(CONCEPTS)] for row in range(size)])
    blocks = np.concatenate([block for _, block in pictures.blocks()])
    scores = module._scores(pictures, named.astype(np.float32).T @ blocks, named.sum(axis=0), named)
    finite = np.isfinite(wanted)
    assert (np.isfinite(scores) == finite).all()
    np.testing.assert_allclose(scores[finite].astype(np.float64), wanted[finite], atol=2e-3)


def test_pieces_do_not_change_the_tags(planted, monkeypatch):
    whole = tagged(planted.vectors, planted.said)
    monkeypatch.setattr(module, "_ROWS", 700)
    monkeypatch.setattr(module, "_SCORES", 7 * PAIRS)
    pieces = tagged(planted.vectors, planted.said)
    same = sum(a == b for a, b in zip(lists_of(whole), lists_of(pieces), strict=True))
    assert same > 0.99 * PAIRS  # sums in another order round differently
