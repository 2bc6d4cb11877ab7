import numpy as np
import pyarrow as pa

from assets.reduction.report_concepts import concept_facts, count_concepts
from assets.reduction.report_pictures import pick
from assets.reduction.report_truth import Truth, judge
from assets.reduction.steps_concepts import class_names, find_concepts

CAPTIONS = pa.array(["Two red apples!", "a red apple and a police car", "police  cars", "nothing", "a car, a CAR"])
CLASSES = [
    {"name": "red apple", "plural": "red apples"},
    {"name": "police car", "plural": "police cars"},
    {"name": "car", "plural": ""},
]


def test_names_of_several_words_and_plurals_are_found_once_per_caption():
    found = find_concepts(CAPTIONS, class_names({"classes": CLASSES}), "auto", 1)
    assert found.names == ("car", "police car", "red apple")
    said = [{found.names[e] for e in found.entries[found.pairs == row]} for row in range(5)]
    assert said == [{"red apple"}, {"red apple", "police car", "car"}, {"police car"}, set(), {"car"}]
    assert found.counts().tolist() == [2, 2, 2]
    assert found.counts(np.array([1, 0, 0, 1, 1], dtype=bool)).tolist() == [1, 0, 1]


def test_words_are_entries_from_their_least_count_on():
    found = find_concepts(CAPTIONS, [], "auto", 2)
    assert found.names == ("a", "car", "police", "red")
    assert found.counts().tolist() == [2, 2, 2, 2]
    assert find_concepts(CAPTIONS, ["car", "cars"], "words", 2).names == found.names
    assert len(find_concepts(CAPTIONS, [], "words", 9).pairs) == 0


def test_concepts_that_vanish_or_lose_half_of_their_share_are_counted():
    captions = pa.array(["cat"] * 8 + ["dog"] * 8 + ["owl"] * 8)
    kept = np.array([True] * 8 + [True] + [False] * 15)
    facts = concept_facts(count_concepts(captions, kept, []))
    assert (facts["entries"], facts["gone"]) == (3, 1)
    assert (facts["share_more_than_doubled"], facts["share_more_than_halved"]) == (1, 2)
    assert facts["mentions"]["head"] == {"pool": 1 / 3, "kept": 8 / 9}


def test_copies_are_counted_beyond_the_first_of_each_picture_that_is_kept():
    truth = Truth([None, "generic", None, "mismatch", "generic"], ["a", "a", "a", "b", "c"])
    judged = judge(truth, np.array([False, True, True, True, False]))
    assert (judged["copies"]["pool"], judged["copies"]["kept"], judged["copies"]["recall"]) == (2, 1, 0.5)
    assert (judged["noise"]["pool"], judged["noise"]["kept"]) == (3, 2)
    assert judged["noise"]["by_kind"] == {"generic": {"pool": 2, "kept": 1}, "mismatch": {"pool": 1, "kept": 1}}
    clean = judge(Truth([None], ["a"]), np.array([True]))
    assert clean["noise"]["recall"] is None and clean["copies"]["recall"] is None


def test_pictures_are_shown_from_the_worst_score_to_the_best():
    scores = np.arange(100, dtype=np.float32)[::-1].copy()
    shown = pick(np.arange(10, 90), scores)
    assert len(shown) == 12 and shown[0] == 89 and shown[-1] == 10
    assert pick(np.array([4, 2]), np.full(9, np.nan, dtype=np.float32)) == [4, 2]
