from types import SimpleNamespace

import numpy as np
import pytest

from assets.errors import ConfigError, DataError
from assets.section import parse
from evaluation.class_scores import class_means
from evaluation.features import Features, SplitFeatures
from evaluation.intervals import Bootstrap
from evaluation.samples import ClassFacts
from evaluation.zero_shot import ZeroShot, ZeroShotConfig, class_hits, nearest_classes


def unit(array: np.ndarray) -> np.ndarray:
    return (array / np.linalg.norm(array, axis=-1, keepdims=True)).astype(np.float32)


def slow_top_k(images: np.ndarray, classes: np.ndarray, labels: np.ndarray, k: int) -> list[float]:
    hits = []
    for image, label in zip(images, labels, strict=True):
        ranked = sorted(range(len(classes)), key=lambda c: -float(image @ classes[c]))
        hits.append(float(label in ranked[:k]))
    return hits


def test_class_hits_agree_with_sorting_image_by_image():
    rng = np.random.default_rng(0)
    images, classes = unit(rng.normal(size=(80, 12))), unit(rng.normal(size=(9, 12)))
    labels = rng.integers(0, 9, 80)
    hits = class_hits(images, classes, labels, (1, 5))
    assert hits[:, 0].tolist() == slow_top_k(images, classes, labels, 1)
    assert hits[:, 1].tolist() == slow_top_k(images, classes, labels, 5)


def test_images_equal_to_their_class_are_always_right():
    classes = np.eye(6, dtype=np.float32)
    labels = np.array([3, 1, 5, 0])
    assert class_hits(classes[labels], classes, labels, (1,)).tolist() == [[1.0]] * 4


def test_equal_class_features_give_chance():
    classes = np.tile(unit(np.ones(4)), (8, 1))
    hits = class_hits(unit(np.random.default_rng(0).normal(size=(10, 4))), classes, np.arange(10) % 8, (1, 5))
    assert hits == pytest.approx(np.tile([1 / 8, 5 / 8], (10, 1)))


def test_class_order_does_not_matter():
    rng = np.random.default_rng(1)
    images, classes, labels = unit(rng.normal(size=(40, 5))), unit(rng.normal(size=(7, 5))), rng.integers(0, 7, 40)
    shuffled = rng.permutation(7)
    place = np.argsort(shuffled)
    assert (
        class_hits(images, classes, labels, (1, 5)) == class_hits(images, classes[shuffled], place[labels], (1, 5))
    ).all()


def test_random_features_score_near_chance():
    rng = np.random.default_rng(2)
    images, classes = unit(rng.normal(size=(4000, 32))), unit(rng.normal(size=(20, 32)))
    hits = class_hits(images, classes, np.arange(4000) % 20, (1, 5)).mean(axis=0)
    assert hits == pytest.approx([1 / 20, 5 / 20], abs=0.025)


def test_class_means_weigh_classes_and_not_images():
    scores = np.array([[1.0], [1.0], [0.0], [0.0], [1.0]])
    assert class_means(scores, np.array([0, 0, 0, 0, 1])).tolist() == [[0.5], [1.0]]


CLASSES = tuple(
    ClassFacts(i, name, f"{name}s", "thing", 10 - i, frequency)
    for i, (name, frequency) in enumerate([("cup", "head"), ("hat", "mid"), ("bow", "tail")])
)


def name_axes(prompts: list[str]) -> np.ndarray:
    """Give a prompt the one-hot vector of the class it names."""
    return np.stack([np.eye(3, dtype=np.float32)[[c.name in p for c in CLASSES].index(True)] for p in prompts])


def features(labels: list[int], images: np.ndarray, encode=None) -> Features:
    keys = [f"k{i}" for i in range(len(labels))]
    split = SplitFeatures("zs", "zero_shot", "in_domain", keys, images, tuple(labels), [], None, None)
    return Features((split,), CLASSES, SimpleNamespace(encode=encode or name_axes))


def evaluator(*templates: str) -> ZeroShot:
    return ZeroShot(ZeroShotConfig(templates=templates or ("a {name}",)), Bootstrap(100, 0))


def test_a_hand_made_case_gives_every_metric():
    eye = np.eye(3, dtype=np.float32)
    # cup: 2 of 3 right; hat: 1 of 1; bow: 0 of 1
    images = eye[[0, 0, 1, 1, 0]]
    result = evaluator().run(features([0, 0, 0, 1, 2], images))
    metrics = result.metrics["in_domain"]
    assert metrics["top1"] == pytest.approx(3 / 5)
    assert metrics["mean_per_class"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert (metrics["head"], metrics["mid"], metrics["tail"]) == pytest.approx((2 / 3, 1.0, 0.0))
    assert metrics["top5"] == 1.0 == metrics["chance_top5"]
    assert metrics["chance_top1"] == pytest.approx(1 / 3)
    assert (metrics["num_classes"], metrics["num_images"]) == (3, 5)
    assert set(result.intervals["in_domain"]) == {"top1", "top5", "mean_per_class", "head", "mid", "tail"}
    rows = result.tables["per_class"]
    assert [(row["name"], row["num_images"]) for row in rows] == [("cup", 3), ("hat", 1), ("bow", 1)]
    assert [row["top1"] for row in rows] == pytest.approx([2 / 3, 1.0, 0.0])
    images = result.tables["per_image"]
    assert [(row["key"], row["class_id"], row["predicted"]) for row in images] == [
        ("k0", 0, 0), ("k1", 0, 0), ("k2", 0, 1), ("k3", 1, 1), ("k4", 2, 0),
    ]  # fmt: skip
    assert [row["margin"] for row in images] == pytest.approx([1, 1, -1, 1, -1])
    assert sum(row["top1"] for row in images) / 5 == pytest.approx(metrics["top1"])


def test_the_nearest_class_agrees_with_hits_and_margins_with_sorting():
    rng = np.random.default_rng(4)
    images, classes, labels = unit(rng.normal(size=(60, 6))), unit(rng.normal(size=(7, 6))), rng.integers(0, 7, 60)
    nearest, margins = nearest_classes(images, classes, labels)
    assert ((nearest == labels) == (class_hits(images, classes, labels, (1,))[:, 0] == 1.0)).all()
    for image, label, guess, margin in zip(images, labels, nearest, margins, strict=True):
        scores = (image @ classes.T).tolist()
        assert guess == int(np.argmax(scores))
        assert margin == pytest.approx(scores[label] - max(s for c, s in enumerate(scores) if c != label), abs=3e-6)


def test_a_class_that_ties_with_another_is_not_called_wrong():
    nearest, margins = nearest_classes(unit(np.ones((3, 4))), np.tile(unit(np.ones(4)), (5, 1)), np.array([0, 2, 4]))
    assert nearest.tolist() == [0, 2, 4] and margins.tolist() == [0.0, 0.0, 0.0]


def test_a_class_is_the_unit_mean_of_its_templates():
    seen: list[str] = []

    def encode(prompts):
        seen.extend(prompts)
        return unit(np.arange(1, 1 + 6 * 4, dtype=np.float64).reshape(6, 4) ** 2)

    both = evaluator("a {name}", "{plural} of {group}")
    made = both._class_features(features([0], np.eye(3, dtype=np.float32)[:1], encode))
    assert seen[:2] == ["a cup", "cups of thing"]
    raw = unit(np.arange(1, 25, dtype=np.float64).reshape(6, 4) ** 2)
    assert made == pytest.approx(unit((raw[0::2] + raw[1::2]) / 2), abs=1e-6)


def test_a_class_without_images_is_refused():
    with pytest.raises(DataError, match="2 of 3 classes have no accepted image, the first is 'hat'"):
        evaluator().run(features([0, 0], np.eye(3, dtype=np.float32)[:2]))


def test_an_unknown_class_is_refused():
    with pytest.raises(DataError, match=r"not in dataset\.json, the first is 9"):
        evaluator().run(features([0, 1, 2, 9], np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]))


@pytest.mark.parametrize("template", ["a thing", "{group}", "a {name} {colour}"])
def test_a_template_that_names_no_class_is_refused(template):
    with pytest.raises(ConfigError, match="template"):
        parse(ZeroShotConfig, {"templates": [template]}, "evaluators.zero_shot")
