"""What validation leaves for DVC and Dagster beside its tables: metrics, plots and the checks' severity."""

import json
import shutil
from pathlib import Path

import pytest
from dagster import AssetCheckSeverity, AssetKey

from assets.atomic import write_json, write_text
from pipelines.checks import quality_results
from pipelines.dvc_project import load_project
from pipelines.metadata import describe
from pipelines.translator import Translator

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path):
    shutil.copy(REPOSITORY / "dvc.yaml", tmp_path)
    shutil.copy(REPOSITORY / "profiles/smoke.yaml", tmp_path / "params.yaml")
    return load_project(tmp_path)


@pytest.fixture
def stage(project):
    (found,) = [stage for stage in project.stages.values() if stage.group == "validate"]
    return found


def test_metrics_and_plots_of_the_data_are_outputs_but_no_assets(stage):
    kinds = {out.path.split("/")[0] + "/" + Path(out.path).name: out.kind for out in stage.outs}
    assert [kind for kind in kinds.values() if kind != "out"] == ["metric", "plot", "plot"]
    assert len(Translator().asset_outs(stage)) == 2
    assert all(out.cached for out in stage.outs)


def test_the_asset_shows_the_numbers_of_the_data_and_of_their_drift(project, stage):
    valid, metrics = stage.outs[0], next(out for out in stage.outs if out.kind == "metric")
    write_json(project.root / valid.path / "metrics.json", {"accepted": 7, "rejected_by_reason": {"blank": 2}})
    write_json(
        project.root / metrics.path, {"accepted": 7, "largest_psi": 0.3, "splits": {"train": {"language_share": 0.9}}}
    )
    write_text(project.root / next(out.path for out in stage.outs if out.path.endswith(".csv")), "reason,samples\n")
    found = describe(project.root, stage, valid, None)
    shown = {name: found[name].value for name in found if name not in ("path", "dvc_stage")}
    assert shown == {
        "accepted": 7,
        "rejected_by_reason/blank": 2,
        "largest_psi": 0.3,
        "splits/train/language_share": 0.9,
    }


@pytest.mark.parametrize("severity", ["error", "warning"])
def test_drift_blocks_as_an_error_and_only_warns_as_a_warning(severity, tmp_path):
    entry = {"name": "drift", "description": "", "severity": severity, "observed": {"train/width": 0.4}}
    other = {"name": "columns", "description": "", "severity": "error", "observed": {}, "passed": True}
    (tmp_path / "checks.json").write_text(json.dumps([{**entry, "passed": False}, other]))
    results = {result.check_name: result for result in quality_results(tmp_path / "checks.json", AssetKey("valid"))}
    assert results["data_quality"].passed == (severity == "warning")
    assert results["data_warnings"].passed == (severity == "error")
    assert results["data_quality"].severity == AssetCheckSeverity.ERROR
    failed = results["data_quality" if severity == "error" else "data_warnings"]
    assert "drift" in (failed.description or "")
