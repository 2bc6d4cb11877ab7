import json
import re

import pandas as pd
import pytest

from assets.errors import ConfigError, DataError
from assets.manifest import read_manifest, verify_manifest
from assets.validation.decisions import REASONS
from assets.validation.run import validate

pytestmark = pytest.mark.slow


@pytest.fixture
def mixed(make_raw, picture, sample):
    """Ten training samples, one for most reasons, and two test samples, one of them broken."""
    return make_raw(
        {
            "train": [
                sample("good", picture(1)),
                sample("twin", picture(1)),
                sample("near", picture(1, 96, 96)),
                sample("broken", b"no picture"),
                sample("blank", picture(2, blank=True)),
                sample("small", picture(3, 8, 8)),
                sample("name", picture(4), "IMG_1234.jpg"),
                sample("generic", picture(5), "a photo"),
                sample("leak", picture(100)),
                sample("fine", picture(6, kind="png"), extension="png"),
            ],
            "test": [sample("seen", picture(100)), sample("torn", b"GIF89a")],
        }
    )


@pytest.fixture
def run(tmp_path, monkeypatch, write_params):
    monkeypatch.chdir(tmp_path)

    def go(raw, settings, out="out"):
        validate("toy", write_params(settings), raw, tmp_path / out, tmp_path / f"{out}_docs")
        return tmp_path / out

    return go


def test_every_sample_is_accepted_or_rejected_for_one_reason(mixed, run, settings):
    out = run(mixed, settings)
    accepted, rejects = pd.read_parquet(out / "accepted.parquet"), pd.read_parquet(out / "rejects.parquet")
    assert list(accepted.columns) == ["key", "split"]
    assert accepted["key"].tolist() == ["good", "fine", "seen"]
    assert list(rejects.columns) == ["key", "split", "shard", "reason", "value"]
    assert dict(zip(rejects["key"], rejects["reason"], strict=True)) == {
        "twin": "duplicate_image",
        "near": "near_duplicate",
        "broken": "undecodable",
        "blank": "blank",
        "small": "too_small",
        "name": "file_name",
        "generic": "generic",
        "leak": "in_evaluation",
        "torn": "undecodable",
    }
    values = dict(zip(rejects["key"], rejects["value"], strict=True))
    assert (values["twin"], values["leak"], values["small"]) == ("good", "seen", "8x8")
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["ingested"] == 12 == metrics["accepted"] + metrics["rejected"]
    assert sum(metrics["rejected_by_reason"].values()) == metrics["rejected"] == 9
    assert set(metrics["rejected_by_reason"]) == set(REASONS)
    assert verify_manifest(out) == [] and read_manifest(out, "valid")["counts"]["accepted"] == 3


def test_checks_have_the_documented_form_and_the_report_works_offline(mixed, run, settings, tmp_path):
    checks = json.loads((run(mixed, settings) / "checks.json").read_text())
    assert len({check["name"] for check in checks}) == len(checks) > 20
    for check in checks:
        assert set(check) == {"name", "description", "passed", "severity", "observed"}
        assert check["severity"] in ("error", "warning")
        assert all(isinstance(value, int | float | str) for value in check["observed"].values())
    failed = [check for check in checks if not check["passed"]]
    assert [(check["name"], check["severity"]) for check in failed] == [("rejected_share_usual", "warning")]
    assert failed[0]["observed"] == {"train": 0.8, "test": 0.5}
    docs = tmp_path / "out_docs"
    assert (docs / "rejected.jpg").stat().st_size > 1000
    pages = list(docs.rglob("*.html"))
    assert len(pages) >= 6
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"""(?:src|href)=["']?https?://|url\(['"]?https?:""", text), page
        for target in re.findall(r'href="([^"#]+?\.html)"', text):
            assert (page.parent / target).is_file(), (page, target)


def test_two_runs_give_the_same_bytes(mixed, run, settings):
    first, second = run(mixed, settings, "first"), run(mixed, settings, "second")
    names = sorted(path.name for path in first.iterdir())
    assert names == ["accepted.parquet", "checks.json", "manifest.json", "metrics.json", "rejects.parquet"]
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def test_too_many_rejects_fail_the_stage_but_leave_everything_to_look_at(mixed, run, settings, tmp_path):
    settings["limits"]["max_rejected_train"] = 0.2
    with pytest.raises(DataError, match=r"failed 1 of its checks: rejected_share .*0\.8.*out_docs/index\.html"):
        run(mixed, settings)
    checks = json.loads((tmp_path / "out" / "checks.json").read_text())
    assert [check["name"] for check in checks if not check["passed"] and check["severity"] == "error"] == [
        "rejected_share"
    ]
    assert (tmp_path / "out" / "rejects.parquet").is_file() and (tmp_path / "out_docs" / "index.html").is_file()
    with pytest.raises(DataError, match="unfinished"):
        read_manifest(tmp_path / "out")


def test_repeated_keys_and_wrong_counts_fail_the_stage(make_raw, picture, sample, run, settings):
    raw = make_raw(
        {"train": [sample("a", picture(1)), sample("b", picture(2)), sample("a", picture(3))]}, declared={"train": 4}
    )
    with pytest.raises(DataError, match=r"failed 2 of its checks: rows_as_declared .*keys_unique"):
        run(raw, settings)


def test_nothing_rejected_gives_an_empty_table(make_raw, picture, sample, run, settings):
    raw = make_raw({"train": [sample("a", picture(1)), sample("b", picture(2))]})
    out = run(raw, settings)
    assert len(pd.read_parquet(out / "rejects.parquet")) == 0 and len(pd.read_parquet(out / "accepted.parquet")) == 2


def test_a_wrong_limit_is_a_config_error_before_any_work(mixed, run, settings, tmp_path):
    settings["image"]["min_sid"] = 3
    with pytest.raises(ConfigError, match="min_side"):
        run(mixed, settings)
    assert not (tmp_path / "work").exists()


def test_a_damaged_shard_stops_the_stage(mixed, run, settings, tmp_path):
    (mixed / "train/00002.tar").unlink()
    with pytest.raises(DataError, match=r"train/00002\.tar is missing"):
        run(mixed, settings)
    assert not (tmp_path / "out").exists()
