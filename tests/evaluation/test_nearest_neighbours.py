import math

import numpy as np
import pytest

from assets.errors import ConfigError
from assets.section import parse
from evaluation.class_scores import label_hits
from evaluation.nearest_neighbours import NearestNeighboursConfig, class_votes
from evaluation.probing import Labelled
from evaluation.ranking import STEP


def labelled(features: np.ndarray, labels: list[int], classes: int) -> Labelled:
    keys = tuple(f"k{i}" for i in range(len(labels)))
    return Labelled(keys, features.astype(np.float32), np.array(labels), classes)


@pytest.mark.parametrize("neighbours", [1, 4, 100])
def test_votes_agree_with_counting_image_by_image(neighbours):
    rng = np.random.default_rng(0)
    train = labelled(rng.normal(size=(30, 6)), [i % 5 for i in range(30)], 5)
    tested = rng.normal(size=(9, 6)).astype(np.float32)
    votes = class_votes(train, tested, neighbours, 0.1) * STEP
    for image, row in zip(tested, votes, strict=True):
        cosines = [float(image @ f / np.linalg.norm(image) / np.linalg.norm(f)) for f in train.features]
        nearest = sorted(range(30), key=lambda i: -cosines[i])[:neighbours]
        expected = [
            sum(math.exp((cosines[i] - max(cosines)) / 0.1) for i in nearest if train.labels[i] == c) for c in range(5)
        ]
        assert row == pytest.approx(expected, abs=1e-4)


def test_the_length_of_features_does_not_matter():
    rng = np.random.default_rng(0)
    features, tested = rng.normal(size=(20, 4)), rng.normal(size=(5, 4)).astype(np.float32)
    labels = [i % 4 for i in range(20)]
    longer = features * rng.uniform(0.5, 9, size=(20, 1))
    votes = class_votes(labelled(features, labels, 4), tested, 3, 0.07)
    assert np.abs(class_votes(labelled(longer, labels, 4), 3 * tested, 3, 0.07) - votes).max() <= 100


@pytest.mark.parametrize("neighbours", [1, 3, 8, 20])
def test_equal_features_give_chance(neighbours):
    train = labelled(np.ones((8, 3)), [0, 0, 1, 1, 2, 2, 3, 3], 4)
    votes = class_votes(train, np.ones((4, 3), dtype=np.float32), neighbours, 0.07)
    assert label_hits(votes, np.arange(4), (1,)) == pytest.approx(np.full((4, 1), 1 / 4))


def test_neighbours_tied_for_the_last_place_share_it():
    eye = np.eye(3)
    train = labelled(eye[[0, 1, 1, 1]], [0, 1, 1, 2], 3)
    tested = np.array([[1.0, 0.0, 0.0]], dtype=np.float32)
    votes = class_votes(train, tested, 2, 1.0) * STEP
    # the first is nearest; one place is left for three images at cosine 0, two of class 1
    assert votes[0] == pytest.approx([1.0, math.exp(-1) * 2 / 3, math.exp(-1) / 3], abs=1e-5)


@pytest.mark.parametrize("change", [{"neighbours": 0}, {"temperature": 0}, {"features": "raw"}, {"folds": 1}])
def test_wrong_settings_are_refused(change):
    good = {"features": "pooled", "folds": 5, "neighbours": 5, "temperature": 0.07}
    assert parse(NearestNeighboursConfig, good, "evaluators.nearest_neighbours")
    with pytest.raises(ConfigError, match=f"evaluators.nearest_neighbours.{next(iter(change))}"):
        parse(NearestNeighboursConfig, {**good, **change}, "evaluators.nearest_neighbours")
