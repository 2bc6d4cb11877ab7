import json
import re

import pandas as pd
import pytest

from assets.errors import ConfigError, DataError
from assets.manifest import read_manifest, verify_manifest
from assets.validation.baseline import accept_baseline
from assets.validation.decisions import REASONS
from assets.validation.profile import EDGES
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
        docs, plots = tmp_path / f"{out}_docs", tmp_path / f"{out}_plots"
        validate("toy", write_params(settings), raw, tmp_path / out, docs, plots, tmp_path / "baseline.json")
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
    run(mixed, settings)
    checks = json.loads((tmp_path / "out_docs" / "checks.json").read_text())
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


def test_two_runs_give_the_same_bytes(mixed, run, settings, tmp_path):
    first, second = run(mixed, settings, "first"), run(mixed, settings, "second")
    names = sorted(path.name for path in first.iterdir())
    assert names == [
        "accepted.parquet",
        "manifest.json",
        "metrics.json",
        "profile.json",
        "rejects.parquet",
    ]
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)
    for folder, fewest in (("plots", 2 + len(EDGES)), ("docs", 8)):
        files = [path for path in (tmp_path / f"first_{folder}").rglob("*") if path.is_file()]
        assert len(files) >= fewest
        other = tmp_path / f"second_{folder}"
        assert len([path for path in other.rglob("*") if path.is_file()]) == len(files)
        for path in files:
            assert path.read_bytes() == (other / path.relative_to(tmp_path / f"first_{folder}")).read_bytes(), path


def test_too_many_rejects_fail_the_stage_but_leave_everything_to_look_at(mixed, run, settings, tmp_path):
    settings["limits"]["max_rejected_train"] = 0.2
    with pytest.raises(DataError, match=r"failed 1 of its checks: rejected_share .*0\.8.*out_docs/index\.html"):
        run(mixed, settings)
    checks = json.loads((tmp_path / "out_docs" / "checks.json").read_text())
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


def check(out, name):
    (found,) = [
        entry
        for entry in json.loads((out.with_name(f"{out.name}_docs") / "checks.json").read_text())
        if entry["name"] == name
    ]
    return found


def many(picture, sample, count, side=48, caption="a small dog sits on a red mat", first=0):
    return [sample(f"k{number:04d}", picture(number, side, side), caption) for number in range(first, first + count)]


def test_the_profile_adds_up_to_what_was_accepted(mixed, run, settings):
    out = run(mixed, settings)
    train = json.loads((out / "profile.json").read_text())["splits"]["train"]
    assert train["accepted"] == 2 and sum(train["rejected"].values()) == 8
    assert all(sum(counts) == 2 for counts in train["histograms"].values())
    assert train["formats"] == {"jpg": 1, "png": 1}
    assert train["words"]["most_frequent"] == {"two": 2, "small": 2, "dogs": 2}
    assert train["quantiles"]["width"] == [48] * 9
    assert train["languages"] == {"en": 2}


def test_without_a_baseline_the_drift_checks_pass_and_say_so(mixed, run, settings, tmp_path):
    out = run(mixed, settings)
    for name, severity in (("drift", "error"), ("drift_usual", "warning")):
        assert check(out, name)["passed"] and check(out, name)["severity"] == severity
        assert check(out, name)["observed"] == {"baseline": "none"}
    assert "no <code>baselines/toy.json</code>" in (tmp_path / "out_docs/index.html").read_text()


def test_data_like_the_baseline_pass_and_other_data_stop_the_stage(make_raw, picture, sample, run, settings, tmp_path):
    settings["duplicates"]["near"] = False
    before = run(make_raw({"train": many(picture, sample, 60)}), settings)
    accept_baseline("toy", before, before.with_name(f"{before.name}_docs"), tmp_path / "baseline.json")
    assert check(run(make_raw({"train": many(picture, sample, 60, first=60)}), settings), "drift_usual")["passed"]

    with pytest.raises(DataError, match=r"failed 1 of its checks: drift .*train/width"):
        run(make_raw({"train": many(picture, sample, 60, side=96)}), settings)
    assert not check(tmp_path / "out", "drift_usual")["passed"]
    observed = check(tmp_path / "out", "drift")["observed"]
    assert len(observed) == 5 and observed["train/width"] == observed["train/height"] > 5
    page = (tmp_path / "out_docs/index.html").read_text()
    assert page.count("<svg") == len(EDGES) and "FAILED" in page and "clipfoundry baseline toy" in page

    accept_baseline("toy", tmp_path / "out", tmp_path / "out_docs", tmp_path / "baseline.json")
    assert check(run(make_raw({"train": many(picture, sample, 60, side=96)}), settings), "drift")["passed"]


def test_what_dvc_shows_tells_how_far_the_data_are_from_the_baseline(
    make_raw, picture, sample, run, settings, tmp_path
):
    settings["duplicates"]["near"] = False
    raw = make_raw({"train": many(picture, sample, 20)}, listed={"train": 25})
    accept_baseline("toy", run(raw, settings), tmp_path / "out_docs", tmp_path / "baseline.json")
    run(raw, settings)
    shown = json.loads((tmp_path / "out_plots/metrics.json").read_text())
    assert shown["largest_psi"] == 0 and shown["accepted"] == 20
    assert shown["splits"]["train"]["left_out_share"] == 0.2
    assert shown["splits"]["train"]["median"]["caption_words"] == 8
    rejects = pd.read_csv(tmp_path / "out_plots/rejects.csv")
    assert set(rejects["reason"]) == set(REASONS) and rejects["samples"].sum() == 0
    width = pd.read_csv(tmp_path / "out_plots/histograms/width.csv")
    assert width.loc[width["share"] > 0].values.tolist() == [[45, 1.0]]


def test_a_split_may_lack_what_could_not_be_read_but_not_exceed_what_was_listed(
    make_raw, picture, sample, run, settings
):
    settings["duplicates"]["near"] = False
    out = run(make_raw({"train": many(picture, sample, 4)}, listed={"train": 8}), settings)
    assert check(out, "none_beyond_listed")["passed"]
    assert not check(out, "left_out_share")["passed"] and check(out, "left_out_share")["observed"] == {"train": 0.5}
    with pytest.raises(DataError, match="none_beyond_listed"):
        run(make_raw({"train": many(picture, sample, 4)}, listed={"train": 3}), settings)


def test_captions_in_other_languages_are_told_and_where_wanted_rejected(make_raw, picture, sample, run, settings):
    settings["duplicates"]["near"] = False
    german = "zwei kleine Hunde spielen im Garten hinter dem Haus"
    mixed = [*many(picture, sample, 2, caption="two small dogs play in the garden behind the house")]
    mixed += many(picture, sample, 2, caption=german, first=2)
    raw = make_raw({"train": mixed})
    out = run(raw, settings)
    assert check(out, "language_share")["observed"] == {"train": 0.5}
    assert not check(out, "language_share")["passed"] and check(out, "language_share")["severity"] == "warning"

    settings["caption"]["language"] = {"min_probability": 0.9}
    rejects = pd.read_parquet(run(raw, settings) / "rejects.parquet")
    assert rejects["reason"].tolist() == ["language"] * 2 and rejects["value"].tolist()[0].startswith("de 0.9")
    settings["caption"]["language"] = None
    settings["language"] = {"severity": "error"}
    with pytest.raises(DataError, match="language_share"):
        run(raw, settings)


def test_no_language_can_be_demanded_where_none_is_declared(make_raw, picture, sample, run, settings):
    settings["caption"]["language"] = {"min_probability": 0.9}
    with pytest.raises(DataError, match=r"datasets\.toy\.validation\.caption\.language: .* declares no language"):
        run(make_raw({"train": many(picture, sample, 2)}, languages=()), settings)
