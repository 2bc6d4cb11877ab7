import pytest

from assets.errors import ConfigError
from assets.section import parse
from evaluation.promotion.config import PromotionConfig, load_promotion
from tests.evaluation.squares import RUNS, write_params

PLAIN = {"run": "clip-s0", "dataset": "squares", "metric": "zero_shot.in_domain.top1", "rule": "better"}


def test_metrics_and_evaluators_are_each_named_once():
    slices, floors = {"zero_shot.in_domain.tail": 0.05}, {"retrieval.in_domain.mean_recall": 0.1, PLAIN["metric"]: 0.2}
    config = parse(PromotionConfig, {**PLAIN, "slices": slices, "floors": floors}, "p")
    assert config.metrics == (PLAIN["metric"], "zero_shot.in_domain.tail", "retrieval.in_domain.mean_recall")
    assert config.evaluators == ("zero_shot", "retrieval") and config.bucket == "none"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"rule": "best"}, "rule"),
        ({"rule": "not_worse"}, "needs a margin above 0"),
        ({"margin": 0.1}, "margin belongs to rule not_worse"),
        ({"metric": "top1"}, "metric"),
        ({"metric": "zero_shot.in_domain.num_images"}, "is a count or a chance level"),
        ({"floors": {"zero_shot.in_domain.chance_top1": 0.1}}, "is a count or a chance level"),
        ({"slices": {"zero_shot.in_domain.tail": -0.1}}, "slices"),
        ({"floors": {"zero_shot.in_domain.tail": 50}}, "floors"),
        ({"bucket": "Not A Bucket"}, "bucket"),
        ({"floor": {}}, "did you mean 'floors'"),
    ],
)
def test_wrong_values_are_named(change, text):
    with pytest.raises(ConfigError, match=text):
        parse(PromotionConfig, {**PLAIN, **change}, "promotions.champion")


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("champ", {}, "did you mean 'champion'"),
        ("champion", {"run": "clip-s9"}, "did you mean 'clip-s"),
        ("champion", {"dataset": "circles"}, "dataset is not that of run clip-s0, got 'circles', wanted squares"),
        ("champion", {"floors": {"linear_probe.in_domain.top1": 0.1}}, "add it to evaluation.evaluators"),
    ],
)
def test_what_an_entry_refers_to_is_checked(tmp_path, name, change, text):
    params = write_params(tmp_path / "params.yaml", RUNS, promotions={"champion": {**PLAIN, **change}})
    with pytest.raises(ConfigError, match=text):
        load_promotion(params, name)


def test_a_promotion_may_not_be_called_like_a_run(tmp_path):
    params = write_params(tmp_path / "params.yaml", RUNS, promotions={"clip-s1": PLAIN})
    with pytest.raises(ConfigError, match="both would be models/clip-s1"):
        load_promotion(params, "clip-s1")
