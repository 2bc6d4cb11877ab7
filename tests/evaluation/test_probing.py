import numpy as np
import pytest

from assets.errors import DataError
from evaluation.features import Features, SplitFeatures
from evaluation.intervals import Bootstrap
from evaluation.probing import Labelled, ProbeConfig, Scores, class_places, deal_folds, run_probe
from evaluation.samples import ClassFacts

NAMES = ("cup", "hat", "bow")
CLASSES = tuple(ClassFacts(10 + i, name, f"{name}s", "thing", 1, "mid") for i, name in enumerate(NAMES))


def split(suite: str, labels: list[int], features: np.ndarray | None = None, role: str = "zero_shot") -> SplitFeatures:
    """A split whose features are the one-hot vectors of its labels, before the projection; after it they are zero."""
    keys = [f"{suite}-{i:03d}" for i in range(len(labels))]
    pooled = np.eye(len(NAMES), dtype=np.float32)[labels] if features is None else features
    nothing = np.zeros((len(labels), 2), dtype=np.float32)
    ids = tuple(10 + label for label in labels)
    return SplitFeatures(f"split_{suite}", role, suite, keys, nothing, ids, [], None, None, pooled)


class Oracle:
    """Takes features of ``split`` at their word and notes what it was shown."""

    def __init__(self) -> None:
        self.seen: list[tuple[Labelled, np.ndarray, str, str]] = []

    def __call__(self, train: Labelled, tested: np.ndarray, suite: str, part: str) -> Scores:
        self.seen.append((train, tested, suite, part))
        return np.rint(100 * tested).astype(np.int32)


def run(*splits: SplitFeatures, folds: int = 2, features: str = "pooled"):
    oracle = Oracle()
    config = ProbeConfig(features=features, folds=folds)
    return run_probe(Features(splits, CLASSES, len), config, Bootstrap(100, 0), oracle), oracle


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_classes_and_folds_are_dealt_evenly(folds):
    labels = np.repeat(np.arange(4), [2, 5, 7, 9])
    fold = deal_folds([f"k{i}" for i in range(23)], labels, folds)
    assert np.ptp(np.bincount(fold, minlength=folds)) <= 1
    for label in range(4):
        assert np.ptp(np.bincount(fold[labels == label], minlength=folds)) <= 1


def test_folds_follow_keys_and_not_the_order_of_samples():
    rng = np.random.default_rng(0)
    keys, labels = [f"k{i}" for i in range(40)], rng.integers(0, 5, 40)
    order = rng.permutation(40)
    shuffled = deal_folds([keys[i] for i in order], labels[order], 4)
    assert (deal_folds(keys, labels, 4)[order] == shuffled).all()


def test_places_count_each_class_and_purposes_are_unrelated():
    keys, labels = [f"k{i}" for i in range(40)], np.arange(40) % 2
    places = class_places(keys, labels, "fold")
    assert sorted(places[labels == 0]) == list(range(20)) == sorted(places[labels == 1])
    assert (places != class_places(keys, labels, "validation")).sum() > 20


def test_every_image_is_scored_once_by_a_probe_that_never_saw_it():
    keyed = np.arange(24, dtype=np.float32).reshape(12, 2)  # the features tell the image
    _, oracle = run(split("in_domain", [i % 3 for i in range(12)], keyed), folds=4)
    assert [(suite, part) for _, _, suite, part in oracle.seen] == [("in_domain", f"fold_{i}") for i in range(4)]
    tested = [tuple(row) for _, rows, _, _ in oracle.seen for row in rows.tolist()]
    assert sorted(tested) == [tuple(row) for row in keyed.tolist()]
    for train, rows, _, _ in oracle.seen:
        assert len(train.keys) + len(rows) == 12
        assert not {tuple(row) for row in train.features.tolist()} & {tuple(row) for row in rows.tolist()}
        assert [int(key[-3:]) % 3 for key in train.keys] == train.labels.tolist()
        assert train.features[:, 0].tolist() == [2 * int(key[-3:]) for key in train.keys]


def test_hits_go_back_to_their_images_and_suites():
    labels = [0, 0, 0, 0, 1, 1, 2, 2]
    wrong = np.eye(3, dtype=np.float32)[[0, 0, 0, 1, 1, 1, 0, 2]]  # an image of cup and one of bow are taken for others
    result, oracle = run(split("in_domain", labels), split("a_style", labels, wrong), split("z_style", labels))
    assert {suite: metrics["top1"] for suite, metrics in result.metrics.items()} == {
        "a_style": 6 / 8,
        "in_domain": 1.0,
        "z_style": 1.0,
    }
    style = result.metrics["a_style"]
    assert style["mean_per_class"] == pytest.approx((3 / 4 + 1 + 1 / 2) / 3)
    assert style["transfer_top1"] == 6 / 8
    assert style["transfer_mean_per_class"] == pytest.approx((3 / 4 + 1 + 1 / 2) / 3)
    assert style["top5"] == style["transfer_top5"] == style["chance_top5"] == 1.0
    assert style["chance_top1"] == style["chance_mean_per_class"] == pytest.approx(1 / 3)
    assert (style["num_classes"], style["num_images"]) == (3, 8)
    assert result.metrics["z_style"]["transfer_top1"] == 1.0
    assert not [name for name in result.metrics["in_domain"] if name.startswith("transfer")]
    assert set(result.intervals["a_style"]) == {
        name for name in style if not name.startswith(("chance_", "num_"))
    }  # fmt: skip
    transfers = [(train, tested) for train, tested, _, part in oracle.seen if part == "transfer"]
    assert [(len(train.keys), len(tested)) for train, tested in transfers] == [(8, 16)]
    assert {key[:9] for key in transfers[0][0].keys} == {"in_domain"}


def test_there_are_no_more_folds_than_the_median_class_has_images():
    _, oracle = run(split("in_domain", [0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 2]), folds=9)
    assert [part for _, _, _, part in oracle.seen] == ["fold_0", "fold_1", "fold_2"]


def test_transfer_needs_the_suite_that_training_is_like():
    labels = [0, 0, 1, 1, 2, 2]
    result, oracle = run(split("a_style", labels), split("z_style", labels), split("in_domain", labels, role="test"))
    assert set(result.metrics) == {"a_style", "z_style"}
    assert {part for _, _, _, part in oracle.seen} == {"fold_0", "fold_1"}


def test_the_setting_says_which_features_are_probed():
    labels = [0, 0, 1, 1, 2, 2]
    for name, width in (("pooled", 3), ("projected", 2)):
        _, oracle = run(split("in_domain", labels), features=name)
        assert {tested.shape[1] for _, tested, _, _ in oracle.seen} == {width}


def test_a_class_with_one_image_is_refused():
    with pytest.raises(
        DataError, match="split split_in_domain: 2 of 3 classes have fewer than 2 accepted images, the first is 'cup'"
    ):
        run(split("in_domain", [0, 1, 1]))


def test_a_data_set_without_labels_gives_nothing():
    result, oracle = run(split("in_domain", [0, 1], role="retrieval"))
    assert result.metrics == {} == result.intervals
    assert oracle.seen == []
