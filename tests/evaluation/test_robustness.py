import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from assets.errors import ConfigError, DataError
from assets.section import parse
from evaluation import EVALUATORS
from evaluation.evaluate import evaluate
from evaluation.features import Features, SplitFeatures
from evaluation.intervals import Bootstrap
from evaluation.robustness import Robustness, RobustnessConfig
from evaluation.samples import ClassFacts
from evaluation.sides import ImageFeatures
from tests.evaluation.squares import EVALUATION, RUNS, write_params

EYE = np.eye(4, dtype=np.float32)
CLASSES = tuple(ClassFacts(i, f"thing{i}", f"things{i}", "things", 1, "head") for i in range(4))
LABELS = tuple(i % 4 for i in range(40))


class Pictures:
    """Answers with the true class, but with the next one for the first ``wrong`` pictures asked for."""

    def __init__(self, wrong):
        self.wrong, self.asked = wrong, []

    def encode(self, alter, what, rows=None):
        self.asked.append((alter.name, alter.severity, list(rows)))
        labels = np.array(LABELS)[list(rows)]
        labels[: self.wrong(alter)] += 1
        return ImageFeatures(EYE[labels % 4], np.zeros((len(labels), 2), dtype=np.float32))


class Texts:
    def encode(self, captions, query="caption"):
        return EYE[[int(caption[-1]) for caption in captions]]


def features(pictures, classes=CLASSES) -> Features:
    keys = [f"k{i}" for i in range(40)]
    split = SplitFeatures("zero_shot", "zero_shot", "in_domain", keys, EYE[list(LABELS)], LABELS, [], None, None)
    return Features((replace(split, pictures=pictures),), classes, Texts())


def run(pictures, **config):
    return Robustness(RobustnessConfig(**config), Bootstrap(50, 0)).run(features(pictures))


def test_scores_are_means_over_severities_and_corruptions():
    pictures = Pictures(lambda alter: 4 * alter.severity if alter.name == "jpeg" else 0)
    result = run(pictures, corruptions=("jpeg", "contrast"), severities=(1, 3))
    metrics = result.metrics["in_domain"]
    assert metrics["top1"] == 1.0 and metrics["chance_top1"] == 0.25 and metrics["num_images"] == 40
    assert metrics["jpeg_top1"] == pytest.approx(1 - 8 / 40) and metrics["contrast_top1"] == 1.0
    assert metrics["corrupted_top1"] == metrics["num_retained"] == pytest.approx(0.9)
    low, high = result.intervals["in_domain"]["corrupted_top1"]
    assert low < 0.9 < high
    rows = [tuple(row.values()) for row in result.tables["corruptions"]]
    assert rows == [
        ("in_domain", "none", 0, 1.0),
        ("in_domain", "jpeg", 1, pytest.approx(0.9)),
        ("in_domain", "jpeg", 3, pytest.approx(0.7)),
        ("in_domain", "contrast", 1, 1.0),
        ("in_domain", "contrast", 3, 1.0),
    ]


def test_pictures_that_lose_everything_retain_nothing():
    metrics = run(Pictures(lambda alter: 40)).metrics["in_domain"]
    assert metrics["corrupted_top1"] == metrics["num_retained"] == 0


def test_only_so_many_pictures_are_encoded_and_always_the_same():
    pictures = Pictures(lambda alter: 0)
    metrics = run(pictures, images=15, corruptions=("jpeg", "contrast")).metrics["in_domain"]
    assert metrics["num_images"] == 15
    rows = [rows for *_, rows in pictures.asked]
    assert len(rows) == 2 and rows[0] == rows[1] and len(set(rows[0])) == 15
    assert rows[0] != list(range(15))


def test_a_class_without_images_is_refused_before_pictures_are_read():
    pictures = Pictures(lambda alter: 0)
    classes = (*CLASSES, ClassFacts(9, "thing3", "things3", "things", 1, "tail"))
    with pytest.raises(DataError, match="no accepted image"):
        Robustness(RobustnessConfig(), Bootstrap(50, 0)).run(features(pictures, classes))
    assert not pictures.asked


@pytest.mark.parametrize(
    "values",
    [
        {"corruptions": ["fog"]},
        {"corruptions": []},
        {"corruptions": ["jpeg", "jpeg"]},
        {"severities": [6]},
        {"severities": [2, 2]},
        {"images": 0},
        {"templates": ["a picture"]},
    ],
)
def test_wrong_settings_are_refused(values):
    with pytest.raises(ConfigError):
        parse(RobustnessConfig, values, "evaluators.robustness")


def test_the_stage_scores_corrupted_pictures(squares, tmp_path, monkeypatch):
    monkeypatch.setitem(EVALUATORS, "robustness", "evaluation.robustness:Robustness")
    settings = {"corruptions": ["occlusion", "brightness"], "severities": [1, 5], "images": 10}
    evaluation = {**EVALUATION, "evaluators": {"robustness": settings}}
    params = write_params(tmp_path / "params.yaml", RUNS, evaluation=evaluation)
    data = squares / "data"
    evaluate(
        "clip-s0", params, squares / "models/clip-s0", data / "raw/squares", data / "valid/squares", tmp_path / "r"
    )
    found = json.loads((tmp_path / "r/metrics.json").read_text())["robustness"]["in_domain"]
    assert found["num_images"] == 10 and found["chance_top1"] == pytest.approx(1 / 6, abs=1e-6)
    assert len(pq.read_table(tmp_path / "r/corruptions.parquet")) == 5


def test_a_reader_encodes_the_rows_asked_for_as_it_encodes_all(squares):
    from assets.config import load_machine
    from assets.progress import Stage
    from evaluation.corruptions import Corruption
    from evaluation.encoder import load_encoder
    from evaluation.features import Batches, extract

    data, params = squares / "data", squares / "params.yaml"
    with Stage("test") as stage:
        encoder = load_encoder(squares / "models/clip-s0", load_machine(params), 7, stage)
        needs = {"zero_shot": frozenset({"images", "pictures"})}
        found = extract(encoder, data / "raw/squares", data / "valid/squares", needs, Batches(7, 0), stage, params)
        (split,) = found.splits
        corrupt = Corruption("gaussian_noise", 5)
        every, some = split.pictures.encode(corrupt, "all"), split.pictures.encode(corrupt, "some", [11, 2, 3])
    assert some.image_features == pytest.approx(every.image_features[[11, 2, 3]], abs=1e-5)
    assert some.pooled_features == pytest.approx(every.pooled_features[[11, 2, 3]], abs=1e-5)
    assert np.abs(every.image_features - split.image_features).max() > 1e-3
    assert len(every.image_features) == len(split.keys)
