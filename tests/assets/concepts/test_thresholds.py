from itertools import pairwise

import numpy as np
import pytest

from assets.concepts.misalignment import misalignment
from assets.concepts.thresholds import calibrate, hits_above
from tests.assets.concepts.case_a import CASE, CONCEPTS, PAIRS, from_postings, lists_of, rows_of


def tags(threshold: float):
    """Tags of the fixture's pictures, at the rows of their captions."""
    found = lists_of(hits_above(CASE["img_probs"], threshold))
    by_row = dict(zip(CASE["img_ids"].tolist(), found, strict=True))
    return rows_of([by_row.get(row, []) for row in range(PAIRS)])


@pytest.mark.parametrize("threshold", ["0.5", "0.6", "0.7"])
def test_image_counts_of_the_fixture(threshold):
    assert tags(float(threshold)).counts(CONCEPTS).tolist() == CASE[f"img_counts_ref_{threshold}"].tolist()


def test_image_hits_and_joint_counts_of_the_fixture():
    found = tags(0.7)
    assert lists_of(found) == lists_of(from_postings("img_hits"))
    joint = from_postings("text_hits").intersection(found).counts(CONCEPTS)
    assert joint.tolist() == CASE["integrated_counts_ref"].tolist()
    assert (joint <= np.minimum(found.counts(CONCEPTS), CASE["text_counts_ref_lemmatized"])).all()
    assert misalignment(from_postings("text_hits"), found).disjoint == CASE["misalign_consistent"][0]


def test_a_score_of_exactly_the_threshold_is_no_hit_and_half_precision_decides():
    half = np.float16(0.7)  # 0.7002, so that 0.7001 is no more than it
    scores = np.array([[half, np.nextafter(half, np.float16(1)), np.float16(0.7001), np.float16(0.6)]])
    assert lists_of(hits_above(scores, 0.7)) == [[1]]
    assert lists_of(hits_above(scores, np.array([0.5, 0.9, 0.6, 0.6], dtype=np.float16))) == [[0, 2]]


def test_a_higher_threshold_never_gives_more():
    counts = [hits_above(CASE["img_probs"], t).counts(CONCEPTS) for t in np.linspace(0, 1, 21)]
    assert all((more >= fewer).all() for more, fewer in pairwise(counts))


def test_captions_that_leave_things_out_do_not_raise_the_threshold():
    # the best 400 of 1,000 pictures show the concept, and three of four captions of these name it
    scores = np.linspace(1, 0, 1000, dtype=np.float16)[:, None]
    named = (np.arange(1000) < 400) & (np.arange(1000) % 4 != 3)
    tagged = {p: int((scores > calibrate(scores, named[:, None], p)).sum()) for p in (0.9, 0.8, 0.5)}
    for precision, number in tagged.items():
        assert number == pytest.approx(400 / precision, rel=0.03)


def test_equal_scores_are_tagged_together_or_not_at_all():
    scores = np.repeat(np.array([0.9, 0.5, 0.1], dtype=np.float16), 20)[:, None]
    named = np.repeat([True, False, False], 20)[:, None]
    named[20:25] = True
    for precision in (0.5, 0.9, 1.0):
        assert (scores > calibrate(scores, named, precision)).sum() in (20, 40, 60)
    assert (scores > calibrate(scores, named, 0.9)).sum() == 20


def test_scores_that_tell_named_pictures_no_better_than_chance_give_no_tags():
    rng = np.random.default_rng(0)
    scores = rng.uniform(size=(2000, 30)).astype(np.float16)
    thresholds = calibrate(scores, rng.uniform(size=scores.shape) < 0.2, 0.9)
    assert np.isinf(thresholds).mean() > 0.9


def test_a_concept_that_nothing_can_be_compared_with_is_never_found():
    scores = np.array([[0.9, -np.inf], [0.8, -np.inf], [0.1, -np.inf]], dtype=np.float16)
    thresholds = calibrate(scores, np.array([[False, True], [False, False], [False, False]]), 0.9)
    assert not (scores > thresholds).any()
