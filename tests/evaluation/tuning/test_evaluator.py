import json
from dataclasses import replace

import numpy as np
import pytest

from assets.errors import ConfigError, DataError
from assets.section import parse
from evaluation import EVALUATORS
from evaluation.evaluate import evaluate
from evaluation.features import Features, SplitFeatures
from evaluation.intervals import Bootstrap
from evaluation.samples import ClassFacts
from evaluation.sides import ImageFeatures
from evaluation.tuning.config import TuningConfig
from evaluation.tuning.evaluator import RandomCrop, Tuning
from tests.evaluation.squares import EVALUATION, RUNS, write_params

CLASSES = tuple(ClassFacts(i, f"thing {i}", f"things {i}", "things", 1, "head") for i in range(5))
CENTRES = np.random.default_rng(1).normal(size=(5, 8))
QUICK = {
    "fit": {"epochs": 8, "batch_size": 16},
    "features": "pooled",
    "views": 2,
    "folds": 2,
    "linear_lrs": [0.2],
    "mlp_lrs": [0.03],
    "nmtune_lrs": [0.03],
}


class Pictures:
    """Encodes views as the plain features and a little noise, which differs by view."""

    def __init__(self, pooled):
        self.pooled, self.asked = pooled, []

    def encode(self, alter, what, rows=None):
        self.asked.append(alter)
        moved = self.pooled + 0.1 * np.random.default_rng(alter.view).normal(size=self.pooled.shape)
        return ImageFeatures(moved[:, :3].astype(np.float32), moved.astype(np.float32))


def split(suite: str, noise: float, seed: int, turned: bool = False, per_class: int = 6) -> SplitFeatures:
    labels = np.repeat(np.arange(5), per_class)
    centres = np.roll(CENTRES, 1, axis=0) if turned else CENTRES
    pooled = (centres[labels] + noise * np.random.default_rng(seed).normal(size=(len(labels), 8))).astype(np.float32)
    keys = [f"{suite}-{i}" for i in range(len(labels))]
    plain = SplitFeatures(
        suite, "zero_shot", suite, keys, pooled[:, :3], tuple(labels.tolist()), [], None, None, pooled
    )
    return replace(plain, pictures=Pictures(pooled))


def run(*splits: SplitFeatures, **changes):
    config = parse(TuningConfig, {**QUICK, **changes}, "evaluators.tuning")
    return Tuning(config, Bootstrap(100, 0)).run(Features(splits, CLASSES, len))


def test_every_arm_is_scored_with_intervals_within_and_across_suites():
    result = run(split("in_domain", 0.2, 0), split("held_out_style", 0.2, 1))
    home, away = result.metrics["in_domain"], result.metrics["held_out_style"]
    for arm in ("lp", "mlp", "nmtune"):
        assert home[f"{arm}_top1"] > 0.8 and away[f"transfer_{arm}_top1"] > 0.8
        low, high = result.intervals["held_out_style"][f"transfer_{arm}_top1"]
        assert low <= away[f"transfer_{arm}_top1"] <= high
        assert home[f"num_cov_{arm}"] >= 0 and away[f"num_cov_{arm}"] >= 0
    assert home["chance_top1"] == away["chance_top1"] == pytest.approx(0.2)
    assert home["num_images"] == 30
    assert home["num_nmtune_minus_mlp"] == pytest.approx(home["nmtune_top1"] - home["mlp_top1"])
    assert away["num_transfer_nmtune_minus_lp"] == pytest.approx(
        away["transfer_nmtune_top1"] - away["transfer_lp_top1"]
    )
    assert "num_nmtune_minus_mlp" in result.intervals["in_domain"]


def test_a_style_that_swaps_the_classes_costs_transfer_only():
    result = run(split("in_domain", 0.1, 0), split("held_out_style", 0.1, 1, turned=True))
    assert result.metrics["in_domain"]["mlp_top1"] > 0.9
    assert result.metrics["held_out_style"]["transfer_mlp_top1"] < 0.3


def test_images_are_scored_by_heads_that_did_not_see_them():
    noise = replace(split("in_domain", 0.1, 0), pooled_features=None)
    pooled = np.random.default_rng(4).normal(size=(30, 8)).astype(np.float32)
    # nothing but noise: a head that saw these very images would know them by heart
    result = run(replace(noise, pooled_features=pooled, pictures=Pictures(pooled)), fit={"epochs": 12})
    for arm in ("lp", "mlp", "nmtune"):
        assert result.metrics["in_domain"][f"{arm}_top1"] < 0.6


def test_views_are_encoded_once_each_and_of_the_home_suite_only():
    home, away = split("in_domain", 0.2, 0), split("held_out_style", 0.2, 1)
    run(home, away, views=3, seeds=[0, 1, 2])
    assert [crop.view for crop in home.pictures.asked] == [0, 1, 2]
    assert away.pictures.asked == []


def test_the_same_settings_give_the_same_numbers_and_scores_are_means_over_seeds():
    both, again = (run(split("in_domain", 1.0, 0), seeds=[3, 4]) for _ in range(2))
    assert both == again
    single = [run(split("in_domain", 1.0, 0), seeds=[seed]).metrics["in_domain"]["mlp_top1"] for seed in (3, 4)]
    assert both.metrics["in_domain"]["mlp_top1"] == pytest.approx(np.mean(single))
    assert both.documents["tuning"]["top1"]["in_domain"]["mlp"] == pytest.approx(single)


def test_the_document_has_settings_choices_and_losses():
    document = run(split("in_domain", 0.2, 0)).documents["tuning"]
    assert document["settings"]["preset"] == "code"
    assert set(document["chosen"]) == {"fold_0", "fold_1"}
    assert document["chosen"]["fold_0"]["nmtune"]["regularisers"]["covariance"] == 0.04
    assert document["chosen"]["fold_0"]["mlp"]["regularisers"] is None
    losses = document["losses"]["fold_0"]["nmtune"]
    assert len(losses) == 8 and losses[-1]["cross_entropy_loss"] < losses[0]["cross_entropy_loss"]


def test_the_validation_part_chooses_the_learning_rate_that_learns():
    document = run(split("in_domain", 0.2, 0), mlp_lrs=[1e-9, 0.03], strengths=[1, 1e9]).documents
    chosen = document["tuning"]["chosen"]["fold_0"]
    assert chosen["mlp"]["lr"] == 0.03
    assert chosen["nmtune"]["regularisers"]["covariance"] == pytest.approx(0.04)


def test_a_choice_without_images_to_choose_with_is_refused():
    with pytest.raises(DataError, match="give every learning rate"):
        run(split("in_domain", 0.2, 0, per_class=2), mlp_lrs=[0.001, 0.01])


def test_projected_features_are_used_when_asked_for():
    result = run(split("in_domain", 0.0, 0), features="projected")
    assert result.metrics["in_domain"]["lp_top1"] > 0.5


def test_without_the_home_suite_it_says_so_and_scores_nothing():
    result = run(split("held_out_style", 0.2, 1))
    assert not result.metrics and "in_domain" in result.notes[0]


def test_a_class_without_two_images_is_refused_before_anything_is_encoded():
    short = split("in_domain", 0.2, 0)
    labels = (*short.class_ids[:-5], 0, 0, 0, 0, 0)
    with pytest.raises(DataError, match="thing 4"):
        run(replace(short, class_ids=labels))
    assert short.pictures.asked == []


def test_crops_follow_seed_view_and_key_and_are_square():
    pixels = np.random.default_rng(0).integers(0, 256, size=(40, 60, 3), dtype=np.uint8)
    crop = RandomCrop((0.5, 0.9), 0.0, 0, 0)
    assert crop(pixels, "a").shape == (40, 40, 3) and crop(pixels, "a").dtype == np.uint8
    np.testing.assert_array_equal(crop(pixels, "a"), crop(pixels, "a"))
    for other in (crop(pixels, "b"), replace(crop, view=1)(pixels, "a"), replace(crop, seed=1)(pixels, "a")):
        assert not np.array_equal(other, crop(pixels, "a"))


def test_a_crop_of_everything_leaves_a_square_picture_alone():
    pixels = np.random.default_rng(0).integers(0, 256, size=(32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(RandomCrop((1.0, 1.0), 0.0, 0, 0)(pixels, "a"), pixels)
    np.testing.assert_array_equal(RandomCrop((1.0, 1.0), 1.0, 0, 0)(pixels, "a"), pixels[:, ::-1])


def test_the_stage_tunes_heads_and_measures_spectra_of_an_export(squares, tmp_path, monkeypatch):
    monkeypatch.setitem(EVALUATORS, "tuning", "evaluation.tuning.evaluator:Tuning")
    monkeypatch.setitem(EVALUATORS, "spectra", "evaluation.spectra:Spectra")
    evaluation = {**EVALUATION, "evaluators": {"tuning": QUICK, "spectra": {}}}
    params = write_params(tmp_path / "params.yaml", RUNS, evaluation=evaluation)
    data, out = squares / "data", tmp_path / "r"
    evaluate("clip-s0", params, squares / "models/clip-s0", data / "raw/squares", data / "valid/squares", out)
    metrics = json.loads((out / "metrics.json").read_text())
    assert 0 <= metrics["tuning"]["in_domain"]["nmtune_top1"] <= 1
    assert metrics["spectra"]["in_domain"]["num_sve"] > 0
    assert set(json.loads((out / "spectra.json").read_text())["roles"]) == {"zero_shot", "retrieval"}
    assert json.loads((out / "tuning.json").read_text())["settings"]["views"] == 2


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"mlp_lrs": [0.1, 0.01]}, "ascend"),
        ({"linear_lrs": []}, "linear_lrs"),
        ({"crop_area": [0.9, 0.8]}, "ordered"),
        ({"head": {"hidden_layers": 0}}, "hidden_layers"),
        ({"seeds": [1, 1]}, "differ"),
        ({"preset": "codes"}, "preset"),
        ({"views": 1}, "views"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, wanted):
    with pytest.raises(ConfigError, match=wanted):
        parse(TuningConfig, {**QUICK, **changes}, "evaluators.tuning")
