import json

import pytest

from assets.atomic import write_json
from assets.errors import DataError
from pipelines.scores import write_scores


def test_scores_hold_every_run_of_params_and_no_other(tmp_path):
    for run, value in (("a", 0.5), ("b", 0.25), ("gone", 1.0)):
        write_json(tmp_path / "runs" / run / "metrics.json", {"zero_shot": {"in_domain": {"top1": value}}})
        write_json(tmp_path / "runs" / run / "manifest.json", {"kind": "report"})
    params = tmp_path / "params.yaml"
    params.write_text("runs: {b: {}, a: {}}\n")

    write_scores(params, tmp_path / "runs", tmp_path / "scores.json")

    found = json.loads((tmp_path / "scores.json").read_text())
    assert {run: scores["zero_shot"]["in_domain"]["top1"] for run, scores in found.items()} == {"a": 0.5, "b": 0.25}


def test_a_run_that_was_not_evaluated_is_named(tmp_path):
    params = tmp_path / "params.yaml"
    params.write_text("runs: {a: {}}\n")
    with pytest.raises(DataError, match="runs/a has no manifest"):
        write_scores(params, tmp_path / "runs", tmp_path / "scores.json")
