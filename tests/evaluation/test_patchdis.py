from pathlib import Path

import numpy as np
import pytest

from evaluation.intervals import Bootstrap
from evaluation.patchdis import (
    choose_theta,
    class_iou,
    mean_iou,
    overlaps,
    predict_all,
    predict_background,
    predict_present,
    present_classes,
    similarities,
    to_pixels,
    with_background,
)
from evaluation.picture_intervals import ratio, score_interval

CASE = np.load(Path("tests/fixtures/lexvla/case_a.npz"))
LABELS, NUM = CASE["pd_label"], len(CASE["pd_class"])
FOUND = similarities(CASE["pd_patch"], CASE["pd_class"])


def test_every_class_competes_as_in_the_published_case():
    predicted = predict_all(FOUND)
    assert (predicted == CASE["pd_pred_all"]).all()
    counts = overlaps(predicted, LABELS, NUM).sum(axis=0)
    assert class_iou(counts) == pytest.approx(CASE["pd_iou_all"], abs=1e-6, nan_ok=True)
    assert float(mean_iou(counts)) == pytest.approx(float(CASE["pd_miou_all"]), abs=1e-6)


def test_classes_of_the_picture_compete_as_in_the_published_case():
    predicted = predict_present(FOUND, present_classes(LABELS, NUM))
    assert (predicted == CASE["pd_pred_present"]).all()
    counts = overlaps(predicted, LABELS, NUM).sum(axis=0)
    assert class_iou(counts) == pytest.approx(CASE["pd_iou_present"], abs=1e-6, nan_ok=True)
    assert float(mean_iou(counts)) == pytest.approx(float(CASE["pd_miou_present"]), abs=1e-6)


def test_dissimilar_patches_are_background_as_in_the_published_case():
    predicted = predict_background(predict_all(FOUND), FOUND.max(axis=-1), float(CASE["pd_theta"]), NUM)
    assert (predicted == CASE["pd_pred_bg"]).all()
    counts = overlaps(predicted, with_background(LABELS, NUM), NUM + 1).sum(axis=0)
    assert class_iou(counts) == pytest.approx(CASE["pd_iou_bg"], abs=1e-6, nan_ok=True)
    assert float(mean_iou(counts[:, :NUM])) == pytest.approx(float(CASE["pd_miou_bg_fg"]), abs=1e-6)


def slow_iou(predictions, labels, number):
    """Walk over pixels."""
    pictures, height, width = labels.shape
    grid = predictions.shape[1]
    sets = {c: (set(), set()) for c in range(number)}
    for i in range(pictures):
        for y in range(height):
            for x in range(width):
                if labels[i, y, x] in sets:
                    sets[labels[i, y, x]][0].add((i, y, x))
                    sets[predictions[i, y * grid // height, x * grid // width]][1].add((i, y, x))
    return [len(true & said) / len(true | said) if true else np.nan for true, said in sets.values()]


def test_iou_agrees_with_a_walk_over_pixels():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(-1, 4, (3, 12, 12)), rng.integers(0, 4, (3, 4, 4))
    found = class_iou(overlaps(predictions, labels, 4).sum(axis=0))
    assert found == pytest.approx(slow_iou(predictions, labels, 4))


def test_true_patches_on_a_map_in_step_with_them_are_perfect():
    predictions = np.random.default_rng(1).integers(0, 5, (4, 6, 6))
    labels = to_pixels(predictions, 24, 24)
    assert mean_iou(overlaps(predictions, labels, 5).sum(axis=0)) == 1.0


def test_the_numbering_of_classes_does_not_matter():
    swap = np.array([1, 0, 2, 3, 4, 5, *range(6, 256)])
    renamed = similarities(CASE["pd_patch"], CASE["pd_class"][swap[:NUM]])
    counts = overlaps(predict_all(renamed), swap[LABELS], NUM).sum(axis=0)
    assert float(mean_iou(counts)) == pytest.approx(float(CASE["pd_miou_all"]), abs=1e-6)


def test_one_class_per_picture_is_always_found_among_those_present():
    rng = np.random.default_rng(2)
    labels = np.where(rng.random((5, 8, 8)) < 0.5, np.arange(5)[:, None, None], -1)
    predicted = predict_present(rng.normal(size=(5, 4, 4, 5)), present_classes(labels, 5))
    assert mean_iou(overlaps(predicted, labels, 5).sum(axis=0)) == 1.0


def test_a_grid_that_does_not_divide_the_picture_is_brought_to_pixels_by_their_centres():
    assert to_pixels(np.array([[0, 1, 2]]), 1, 7).tolist() == [[0, 0, 1, 1, 1, 2, 2]]


def test_the_threshold_that_tells_background_from_objects_is_chosen():
    labels = np.full((2, 4, 4), -1)
    labels[:, :2] = 0
    best = np.where(np.arange(4)[None, :, None] < 2, 0.9, 0.2) * np.ones((2, 4, 4))
    theta = choose_theta(np.zeros((2, 4, 4), dtype=np.int32), best, labels, 1, [0.0, 0.1, 0.5, 0.95])
    assert theta == 0.5


def test_without_labels_there_is_no_score():
    assert np.isnan(mean_iou(overlaps(np.zeros((1, 2, 2), dtype=int), np.full((1, 4, 4), -1), 3).sum(axis=0)))


def test_the_interval_of_a_ratio_is_that_of_the_mean_when_all_pictures_weigh_the_same():
    hits = np.random.default_rng(3).random(40)
    bootstrap = Bootstrap(200, 5)
    parts = np.stack([hits, np.ones(40)], axis=1)
    assert score_interval(parts, ratio, bootstrap) == pytest.approx(tuple(bootstrap.means(hits[:, None])[0]))


def test_the_interval_holds_the_score_and_is_unknown_where_nothing_can_be_scored():
    counts = overlaps(predict_all(FOUND), LABELS, NUM)
    low, high = score_interval(counts, mean_iou, Bootstrap(100, 0))
    assert 0 <= low <= float(CASE["pd_miou_all"]) <= high <= 1
    assert low < high
    assert np.isnan(score_interval(np.zeros((4, 2)), ratio, Bootstrap(10, 0))).all()
