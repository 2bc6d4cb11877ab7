"""Stage ``evaluate`` with sets from elsewhere."""

import copy
import json

import pytest

from assets.errors import ConfigError, DataError
from assets.manifest import read_manifest, verify_manifest
from evaluation import EVALUATORS
from evaluation.evaluate import evaluate
from tests.evaluation.external.sets import picture, write_captions, write_classes, write_shard
from tests.evaluation.squares import EVALUATION, RUNS, write_params


def score(root, tmp_path, external, monkeypatch):
    monkeypatch.setitem(EVALUATORS, "multi_caption", "evaluation.multi_caption:MultiCaption")
    section = copy.deepcopy(EVALUATION) | {"external": external}
    section["evaluators"]["multi_caption"] = {}
    params = write_params(tmp_path / "params.yaml", RUNS, evaluation=section)
    data, out = root / "data", tmp_path / "out"
    model = root / "models/clip-s0"
    evaluate("clip-s0", params, model, data / "raw/squares", data / "valid/squares", out, tmp_path / "external")
    return out


@pytest.mark.slow
def test_scores_of_sets_join_as_suites(squares, tmp_path, monkeypatch):
    folder = write_classes(tmp_path / "external/colours")
    write_captions(tmp_path / "external/pairs")
    broken = [(f"s{n}.png", picture(n) if n else b"no picture") for n in range(13)]
    labels = [(f"s{n}.cls", str(n % 6).encode()) for n in range(13)]
    write_shard(folder / "test/0.tar", [one for pair in zip(broken, labels, strict=True) for one in pair])
    (folder / "test/nshards.txt").write_text("1")
    wanted = {
        "colours": {"evaluators": ["zero_shot"], "max_unreadable": 0.1},
        "pairs": {"evaluators": ["multi_caption", "retrieval"]},
    }
    out = score(squares, tmp_path, wanted, monkeypatch)
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["zero_shot"]["colours"]["num_images"] == 12
    assert not {"head", "mid", "tail"} & set(metrics["zero_shot"]["colours"])
    assert "head" in metrics["zero_shot"]["in_domain"]
    assert metrics["multi_caption"]["pairs"]["num_captions"] == sum(2 + n % 3 for n in range(40))
    assert "pairs" in metrics["retrieval"]
    assert (out / "external_colours_per_class.parquet").is_file()
    assert verify_manifest(out) == []
    assert {"external.colours", "external.pairs"} <= set(read_manifest(out)["inputs"])
    wanted["colours"]["max_unreadable"] = 0.01
    with pytest.raises(DataError, match=r"1 of 13 pictures cannot be decoded \(1 damaged"):
        score(squares, tmp_path, wanted, monkeypatch)


def test_evaluators_that_do_not_fit_a_set_are_refused(squares, tmp_path, monkeypatch):
    write_captions(tmp_path / "external/pairs")
    with pytest.raises(ConfigError, match="zero_shot does not score sets of this kind"):
        score(squares, tmp_path, {"pairs": {"evaluators": ["zero_shot"]}}, monkeypatch)
    with pytest.raises(ConfigError, match="no such evaluator, got 'linear_probe'"):
        score(squares, tmp_path, {"pairs": {"evaluators": ["linear_probe"]}}, monkeypatch)
    with pytest.raises(DataError, match="absent does not exist"):
        score(squares, tmp_path, {"absent": {"evaluators": ["zero_shot"]}}, monkeypatch)
