import io
import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from assets.errors import ConfigError, DataError
from assets.manifest import verify_manifest
from assets.section import parse
from evaluation.base import evaluator_class, evaluator_config
from evaluation.class_scores import label_hits
from evaluation.evaluate import evaluate
from evaluation.features import Features, SplitFeatures
from evaluation.intervals import Bootstrap
from evaluation.linear_probe import LinearProbe, LinearProbeConfig, quantised, validation_part
from evaluation.logistic import Scaling, Stop, fit, log_probabilities
from evaluation.probing import deal_folds
from evaluation.samples import ClassFacts
from tests.evaluation.squares import EVALUATION, RUNS, sample, write_params, write_valid

SETTINGS = {
    "features": "pooled",
    "folds": 4,
    "shots": None,
    "c_values": [0.001, 0.1, 10.0],
    "validation_share": 0.25,
    "iterations": 500,
}


def features(*suites: tuple[str, np.ndarray, np.ndarray], classes: int = 6) -> Features:
    facts = tuple(ClassFacts(i, f"class {i}", f"classes {i}", "thing", 1, "mid") for i in range(classes))
    splits = [
        SplitFeatures(
            name,
            "zero_shot",
            name,
            [f"{name}-{i}" for i in range(len(labels))],
            pooled[:, :2].astype(np.float32),
            tuple(labels.tolist()),
            [],
            None,
            None,
            pooled.astype(np.float32),
        )
        for name, pooled, labels in suites
    ]
    return Features(tuple(splits), facts, len)


def clusters(noise: float, per_class: int = 8, dims: int = 10, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images of 6 classes around centres that every seed shares."""
    centres = np.random.default_rng(99).normal(size=(6, dims))
    labels = np.repeat(np.arange(6), per_class)
    return centres[labels] + noise * np.random.default_rng(seed).normal(size=(len(labels), dims)), labels


def probe(**changes) -> LinearProbe:
    return LinearProbe(parse(LinearProbeConfig, {**SETTINGS, **changes}, "evaluators.linear_probe"), Bootstrap(100, 0))


def test_classes_that_lie_apart_are_told_apart_in_every_style():
    result = probe().run(features(("in_domain", *clusters(0.05)), ("held_out_style", *clusters(0.05, seed=1))))
    for suite in ("in_domain", "held_out_style"):
        assert result.metrics[suite]["top1"] == 1.0
    assert result.metrics["held_out_style"]["transfer_top1"] == 1.0
    assert result.intervals["in_domain"]["top1"] == (1.0, 1.0)


def test_a_style_that_moves_the_classes_costs_transfer_only():
    moved, labels = clusters(0.05, seed=1)
    result = probe().run(
        features(("in_domain", *clusters(0.05)), ("held_out_style", np.roll(moved, 1, axis=1), labels))
    )
    assert result.metrics["held_out_style"]["top1"] == 1.0
    assert result.metrics["held_out_style"]["transfer_top1"] < 0.6


def test_noise_that_a_probe_can_learn_by_heart_scores_chance():
    noise = np.random.default_rng(5).normal(size=(240, 300))
    labels = np.repeat(np.arange(6), 40)
    metrics = probe(folds=2, c_values=[0.01, 1.0]).run(features(("in_domain", noise, labels))).metrics["in_domain"]
    assert metrics["top1"] == pytest.approx(1 / 6, abs=0.08)
    assert metrics["top5"] == pytest.approx(5 / 6, abs=0.08)


def test_features_that_are_all_the_same_give_exactly_chance():
    labels = np.repeat(np.arange(6), 8)
    result = probe().run(features(("in_domain", np.full((48, 5), 0.3), labels), ("style", np.zeros((48, 5)), labels)))
    for name in ("top1", "transfer_top1", "mean_per_class"):
        assert result.metrics["style"][name] == pytest.approx(1 / 6)
    assert result.metrics["in_domain"]["top5"] == pytest.approx(5 / 6)


def test_every_probe_chooses_its_c_as_a_slow_sweep_does_and_refits_on_all_it_has():
    pooled, labels = clusters(0.3, per_class=12)
    pooled += 4 * np.random.default_rng(1).normal(size=(len(labels), 1))  # what most varies says nothing
    made = features(("in_domain", pooled, labels))
    result = probe().run(made)
    keys = made.splits[0].keys
    fold = deal_folds(keys, labels, 4)
    hits = np.empty(len(labels))
    chosen = []
    for number in range(4):
        train = np.flatnonzero(fold != number)
        held = validation_part([keys[i] for i in train], labels[train], 0.25)
        scaling = Scaling.of(pooled[train].astype(np.float32))
        inputs = scaling.apply(pooled[train].astype(np.float32))
        start = np.zeros((inputs.shape[1], 6))
        scores = []
        for c in SETTINGS["c_values"]:
            found = fit(inputs[~held], labels[train][~held], c, start, Stop(5000, 1e-6))
            guesses = log_probabilities(inputs[held], found.weights).argmax(axis=1)
            scores.append((guesses == labels[train][held]).mean())
        chosen.append(SETTINGS["c_values"][int(np.argmax(scores))])
        refitted = fit(inputs, labels[train], chosen[-1], start, Stop(5000, 1e-6))
        tested = scaling.apply(pooled[fold == number].astype(np.float32))
        hits[fold == number] = log_probabilities(tested, refitted.weights).argmax(axis=1) == labels[fold == number]
    probes = result.documents["linear_probe"]["probes"]["in_domain"]
    assert [probes[f"fold_{i}"]["c"] for i in range(4)] == chosen
    assert set(chosen) & {0.1, 10.0}
    assert result.metrics["in_domain"]["top1"] == pytest.approx(hits.mean(), abs=1.5 / len(labels))


def test_the_order_of_samples_does_not_matter():
    pooled, labels = clusters(0.8)
    made = features(("in_domain", pooled, labels))
    order = np.random.default_rng(0).permutation(len(labels))
    split = made.splits[0]
    shuffled = SplitFeatures(
        split.split, split.role, split.suite, [split.keys[i] for i in order], split.image_features[order],
        tuple(labels[order].tolist()), [], None, None, pooled[order].astype(np.float32),
    )  # fmt: skip
    one, two = (probe().run(Features((part,), made.classes, len)) for part in (split, shuffled))
    assert two.documents == one.documents
    for name, value in one.metrics["in_domain"].items():
        assert two.metrics["in_domain"][name] == pytest.approx(value, abs=1e-9), name


def test_shots_limit_what_each_class_teaches():
    result = probe(shots=3).run(features(("in_domain", *clusters(0.3)), ("style", *clusters(0.3, seed=1))))
    probes = result.documents["linear_probe"]["probes"]
    assert {part["num_train"] for suite in probes.values() for part in suite.values()} == {3 * 6}
    assert set(probes["in_domain"]) == {"fold_0", "fold_1", "fold_2", "fold_3", "transfer"}
    assert result.metrics["in_domain"]["num_images"] == 48


def test_two_images_per_class_suffice_for_one_c_but_not_for_a_choice():
    made = features(("in_domain", *clusters(0.05, per_class=2)))
    assert probe(c_values=[1.0]).run(made).metrics["in_domain"]["top1"] > 0.9
    with pytest.raises(DataError, match=r"suite in_domain: no class has two training images, .* give c_values one"):
        probe().run(made)


def test_the_validation_part_takes_a_share_of_every_class_and_leaves_some():
    labels = np.repeat(np.arange(5), [1, 2, 4, 8, 40])
    keys = [f"k{i}" for i in range(len(labels))]
    held = validation_part(keys, labels, 0.25)
    assert np.bincount(labels[held], minlength=5).tolist() == [0, 1, 1, 2, 10]
    most = validation_part(keys, labels, 0.999)
    assert np.bincount(labels[~most]).tolist() == [1, 1, 1, 1, 1]


def test_impossible_classes_stay_in_order_as_far_as_steps_reach():
    scores = quantised(np.array([[-1e-7, -20.0, -1e9, -3e9]]))
    assert scores[0].tolist() == [0, -20_000_000, -2_000_000_000, -2_000_000_000]
    assert label_hits(scores, np.array([1]), (1, 2)).tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"c_values": [1.0, 0.1]}, "ascend, got 1.0, 0.1"),
        ({"c_values": [1.0, 1.0]}, "ascend"),
        ({"c_values": [0.0, 1.0]}, "above 0"),
        ({"c_values": []}, "c_values"),
        ({"shots": 1}, "shots"),
        ({"validation_share": 1.0}, "validation_share"),
        ({"features": "tokens"}, "features"),
        ({"fold": 3}, "did you mean 'folds'"),
    ],
)
def test_wrong_settings_are_refused(change, text):
    with pytest.raises(ConfigError, match=text):
        probe(**change)


@torch.no_grad()
def plain_pooled_features(folder: Path, numbers: list[int]) -> np.ndarray:
    """Encode the zero-shot squares with plain open_clip, its projection taken away."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model.eval().visual.proj = None
    pictures = [Image.open(io.BytesIO(sample("zero_shot", number, "zero_shot").image)) for number in numbers]
    return torch.cat([model.visual(preprocess(picture.convert("RGB"))[None]) for picture in pictures]).numpy()


def test_the_stage_reports_both_probes_and_repeats_their_bytes(squares, tmp_path):
    neighbours = {"features": "pooled", "folds": 3, "neighbours": 2, "temperature": 0.07}
    probes = {"linear_probe": {**SETTINGS, "folds": 3}, "nearest_neighbours": neighbours}
    params = write_params(tmp_path / "params.yaml", RUNS, evaluation={**EVALUATION, "evaluators": probes})
    valid = write_valid(tmp_path / "valid", squares / "data/raw/squares", frozenset({"zero_shot-0001"}))
    for name in ("one", "two"):
        model, raw = squares / "models/clip-s0", squares / "data/raw/squares"
        evaluate("clip-s0", params, model, raw, valid, tmp_path / name)
    assert verify_manifest(tmp_path / "one") == []
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
    metrics = json.loads((tmp_path / "one/metrics.json").read_text())
    pooled = plain_pooled_features(squares / "models/clip-s0", numbers := [i for i in range(18) if i != 1])
    keys = [f"zero_shot-{i:04d}" for i in numbers]
    ids = tuple(i % 6 for i in numbers)
    split = SplitFeatures("zero_shot", "zero_shot", "in_domain", keys, pooled, ids, [], None, None, pooled)
    classes = features(classes=6).classes
    for name, values in probes.items():
        alone = evaluator_class(name)(evaluator_config(name, values), Bootstrap(100, 0))
        expected = alone.run(Features((split,), classes, len)).metrics["in_domain"]
        assert metrics[name]["in_domain"] == pytest.approx(expected, abs=1e-6), name
    probes = json.loads((tmp_path / "one/linear_probe.json").read_text())["probes"]["in_domain"]
    assert sum(17 - probe["num_train"] for probe in probes.values()) == 17
