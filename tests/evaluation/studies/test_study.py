import json
import re
import shutil

import numpy as np
import pytest

from assets.errors import ConfigError, DataError
from assets.manifest import read_manifest, verify_manifest
from evaluation.studies.config import load_study
from evaluation.studies.run import Folders, study
from tests.evaluation.studies.reports import RUNS, SHARES, STUDY, metrics, params, write_report, write_reports


def conduct(root, out, **sections):
    found = params(root / f"{out}.yaml", **sections)
    study("noise", load_study(found, "noise"), Folders(root / "reports/runs", root / out, root / f"plots-{out}"), found)
    return root / out


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    write_reports(folder)
    conduct(folder, "out")
    return folder


@pytest.fixture
def copy(root, tmp_path):
    """The reports, for a test that damages them."""
    shutil.copytree(root / "reports", tmp_path / "reports")
    return tmp_path


def test_the_planted_trends_are_found(root):
    found = json.loads((root / "out/study.json").read_text())
    trends = found["trends"]
    assert trends["zero_shot.in_domain.top1"]["heavy"]["value"] == pytest.approx(-0.3, abs=0.01)
    assert trends["zero_shot.in_domain.top1"]["slope"]["value"] == pytest.approx(-0.1, abs=0.01)
    assert trends["spectra.in_domain.num_sve"]["slope"]["value"] == pytest.approx(0.1, abs=0.02)
    assert abs(trends["tuning.in_domain.mlp_top1"]["spearman"]) < 0.4
    gains = {(gain["where"], gain["control"]): gain["gain"] for gain in found["heads"]}
    assert gains["in-domain", "mlp"]["value"] == pytest.approx(0.03, abs=0.003)
    assert gains["in-domain", "mlp"]["low"] > 0 and gains["out-of-domain", "mlp"]["num"] == len(RUNS)
    text = " ".join(found["reading"])
    assert "NMTune minus MLP, in-domain: +3." in text and "it is better" in text
    assert "is 4 times smaller" in text
    assert {claim["text"]: claim["verdict"] for claim in found["claims"]}["noise raises SVE"] == "agrees"
    assert found["runs"]["clip-30-s1"] == {
        "noise": 0.3,
        "seed": 1,
        "versions": found["runs"]["clip-30-s1"]["versions"],
    }


def test_the_folder_is_complete_and_the_same_bytes_twice(root):
    again = conduct(root, "again")
    manifest = read_manifest(root / "out", "study")
    assert set(manifest["files"]) == {"index.html", "figure.svg", "study.json"}
    assert verify_manifest(root / "out") == [] and manifest["counts"]["levels"] == len(SHARES)
    assert set(manifest["inputs"]) == {f"report of {name}" for name in RUNS}
    for name in [*manifest["files"], "manifest.json"]:
        assert (root / "out" / name).read_bytes() == (again / name).read_bytes()


def test_there_is_a_table_for_plots_per_metric_with_a_row_per_level(root):
    table = root / "plots-out/zero_shot.in_domain.top1.tsv"
    rows = [line.split("\t") for line in table.read_text().splitlines()]
    assert [row[0] for row in rows] == ["noise", *(f"{share:g}" for share in SHARES)] and rows[0][1] == "top1"
    wanted = np.mean([metrics(0.3, seed)["zero_shot"]["in_domain"]["top1"] for seed in (0, 1, 2)])
    assert float(rows[-1][1]) == pytest.approx(wanted, abs=1e-6)


def test_the_page_is_self_contained_and_escaped(root):
    page = (root / "out/index.html").read_text()
    assert page.startswith("<!doctype html>") and "<title>Noise &amp; &lt;co&gt;</title>" in page
    assert page.count("<svg") == 6 and 'aria-label="Zero-shot, top-1 by rising noise: in-domain 6' in page
    assert "<link" not in page and "@import" not in page and "<script" not in page
    assert all(address.startswith("#") for address in re.findall(r'(?:src|href)="([^"]*)"', page))
    identifiers = re.findall(r'\sid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))
    assert all(name in page for name in RUNS)
    assert "#0505" not in page and "#0101" not in page  # no stand-in colour is left


def test_the_figure_carries_the_colours_that_it_uses(root):
    figure = (root / "out/figure.svg").read_text()
    assert figure.count("<svg") == 1 and "prefers-color-scheme: dark" in figure
    used = set(re.findall(r"var\((--[\w-]+)\)", figure))
    assert used and all(f"{name}:" in figure for name in used)
    assert "Noise &amp; &lt;co>" in figure


def test_missing_reports_are_all_named_with_what_to_run(copy):
    shutil.rmtree(copy / "reports/runs/clip-30-s1")
    (copy / "reports/runs/clip-0-s0/manifest.json").unlink()
    with pytest.raises(DataError) as caught:
        conduct(copy, "out")
    assert "2 of 12 runs of the study lack results" in str(caught.value)
    assert '"dvc repro evaluate@clip-30-s1"' in str(caught.value) and "run clip-0-s0" in str(caught.value)
    assert not (copy / "out").exists()


@pytest.mark.parametrize(("fact", "name"), [("code", "code"), ("config_digest", "settings"), ("valid", "data")])
def test_runs_scored_differently_are_refused(copy, fact, name):
    path = copy / "reports/runs/clip-30-s1/manifest.json"
    manifest = json.loads(path.read_text())
    (manifest["inputs"] if fact == "valid" else manifest)[fact] = "other"
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=f"clip-0-s0 and clip-30-s1 were scored with different versions of {name}"):
        conduct(copy, "out")


def test_metrics_that_runs_lack_are_left_out_with_a_note(copy):
    for name in RUNS:
        path = copy / "reports/runs" / name / "metrics.json"
        found = json.loads(path.read_text())
        del found["tuning"]
        if name == "clip-30-s2":
            del found["retrieval"]
        path.write_text(json.dumps(found))
    out = conduct(copy, "out")
    found = json.loads((out / "study.json").read_text())
    assert found["heads"] == [] and "no run has tuning.in_domain.lp_top1" in found["notes"]
    assert "retrieval.in_domain.image_to_text_r1 of clip-30-s2, which lack it" in found["notes"]
    page = (out / "index.html").read_text()
    assert "Left out: no run has tuning.in_domain.nmtune_top1." in page and "<h2>Heads</h2>" not in page


def test_one_seed_and_two_levels_make_a_page_that_concludes_nothing(tmp_path):
    runs = {name: RUNS[name] for name in ("clip-0-s0", "clip-30-s0")}
    for name, share in zip(runs, (0.0, 0.3), strict=True):
        write_report(tmp_path / "reports/runs" / name, share, 0)
    page = (conduct(tmp_path, "out", runs=runs) / "index.html").read_text()
    assert "nothing to conclude" in page and "too few runs for a line" in page and "<strong>-" not in page


def test_reports_without_any_metric_of_the_study_are_refused(tmp_path):
    runs = {name: RUNS[name] for name in ("clip-0-s0", "clip-30-s0")}
    for name in runs:
        write_report(tmp_path / "reports/runs" / name, 0.0, 0, {"other": {"in_domain": {"top1": 0.5}}})
    with pytest.raises(DataError, match=r"add zero_shot.* to evaluation.evaluators"):
        conduct(tmp_path, "out", runs=runs)


def test_too_few_levels_are_refused_before_anything_is_read(tmp_path):
    runs = {name: config for name, config in RUNS.items() if config["policy"] == "none"}
    with pytest.raises(ConfigError, match="too few levels"):
        conduct(tmp_path, "out", runs=runs, studies={"noise": STUDY})
