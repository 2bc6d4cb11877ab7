from types import SimpleNamespace

import numpy as np
import pytest

from assets.errors import ConfigError
from assets.section import parse
from evaluation.concepts.scores import ConceptScores, ConceptScoresConfig
from evaluation.features import Features, SplitFeatures
from evaluation.intervals import Bootstrap
from evaluation.samples import ClassFacts

CLASSES = tuple(ClassFacts(i, name, f"{name}s", "thing", 9, "mid") for i, name in enumerate(("cup", "hat", "bow")))
TEXTS = ["a cup", "two hats and a cup", "nothing"]


def features(classes=CLASSES, splits=1):
    images = np.eye(4, dtype=np.float32)[[0, 1, 1, 3]]
    split = SplitFeatures(
        "test", "retrieval", "in_domain", ["a", "b", "c", "d"], images, None, TEXTS,
        np.eye(4, dtype=np.float32)[[0, 1, 2]], np.array([0, 1, 1, 2]),
    )  # fmt: skip
    return Features((split,) * splits, classes, SimpleNamespace())


def run(least=1, **options):
    return ConceptScores(ConceptScoresConfig(least=least), Bootstrap(100, 0)).run(features(**options))


def test_concepts_are_scored_over_the_captions_that_name_them():
    rows = run().tables["per_concept"]
    found = {(row["direction"], row["concept"]): (row["num"], row["recall"]) for row in rows if row["k"] == 1}
    # the two pairs with one caption share the first place; the cup alone is found at once
    assert found["text_to_image", "hat"] == (2, pytest.approx(0.5))
    assert found["text_to_image", "cup"] == (3, pytest.approx(2 / 3))
    assert found["image_to_text", "cup"] == (3, pytest.approx(2 / 3))
    assert {row["concept"] for row in rows} == {"cup", "hat"}
    assert len(rows) == 2 * 2 * 3


def test_rare_concepts_are_left_out_and_counted():
    found = run(least=3)
    assert {row["concept"] for row in found.tables["per_concept"]} == {"cup"}
    assert found.metrics == {"in_domain": {"num_concepts": 1, "num_without": 1}}
    assert "lower concept_scores.least" in run(least=4).notes[0]


def test_without_classes_or_splits_nothing_is_scored_and_said_why():
    assert "no classes" in run(classes=()).notes[0]
    assert "no split" in run(splits=0).notes[0]


def test_a_bound_below_one_is_refused():
    with pytest.raises(ConfigError, match="least"):
        parse(ConceptScoresConfig, {"least": 0}, "test")
