import subprocess

import pytest
from dagster import AssetCheckSeverity, AssetKey, AssetSelection

from pipelines.dvc_assets import dvc_assets
from pipelines.dvc_project import load_project, read_lock

pytestmark = pytest.mark.slow

RAW, VALID, MODEL = (
    AssetKey(["data", "raw-emoji"]),
    AssetKey(["data", "valid-emoji"]),
    AssetKey(["models", "clip-s0"]),
)


def version(instance, key):
    event = instance.get_latest_materialization_event(key)
    return event.asset_materialization.tags["dagster/data_version"] if event else None


def checks(result):
    return {(e.asset_key.to_user_string(), e.check_name): e for e in result.get_asset_check_evaluations()}


def test_everything_runs_and_data_versions_are_the_hashes_of_dvc_lock(toy, instance):
    result = toy.materialize(instance)

    assert result.success
    lock = read_lock(toy.root)
    assert version(instance, RAW) == lock["ingest@emoji"].outs["data/raw/emoji"].md5
    assert version(instance, VALID) == lock["validate@emoji"].outs["data/valid/emoji"].md5
    assert version(instance, MODEL) == lock["pretrain@clip-s0"].outs["models/clip-s0"].md5
    assert version(instance, AssetKey("leaderboard.json")) == lock["compare"].outs["leaderboard.json"].md5
    assert "up to date" in toy.dvc("status")


def test_metadata_shows_counts_numbers_curves_and_what_the_stage_sent(toy, instance):
    toy.materialize(instance, "data/raw-emoji", "data/valid-emoji", "reports/validation-emoji")
    result = toy.materialize(instance, "models/clip-s0", "runs/clip-s0-summary.json")

    raw = instance.get_latest_materialization_event(RAW).asset_materialization.metadata
    assert raw["dagster/row_count"].value == 3
    assert raw["files"].value == 2
    model = result.asset_materializations_for_node("pretrain__clip_s0")[0].metadata
    assert model["train/loss"].value == 1.0
    assert model["curves"].value.startswith("![train/loss](data:image/svg+xml;base64,")
    assert model["last/loss"].value == pytest.approx(1 / 3)
    assert model["executed"].value is True


def test_an_unchanged_stage_is_not_run_again_unless_forced(toy, instance):
    toy.materialize(instance, "data/raw-emoji")
    before = (toy.root / "data/raw/emoji/rows.json").stat().st_mtime_ns

    again = toy.materialize(instance, "data/raw-emoji")

    metadata = again.asset_materializations_for_node("ingest__emoji")[0].metadata
    assert metadata["executed"].value is False
    assert (toy.root / "data/raw/emoji/rows.json").stat().st_mtime_ns == before

    forced = toy.materialize(instance, "data/raw-emoji", force="ingest__emoji")

    assert forced.asset_materializations_for_node("ingest__emoji")[0].metadata["executed"].value is True


def test_a_broken_error_rule_blocks_what_is_downstream_and_is_not_pushed(toy, instance):
    toy.set(quality="bad")
    result = toy.materialize(instance)

    assert not result.success
    found = checks(result)
    quality = found["data/valid-emoji", "data_quality"]
    assert not quality.passed
    assert "share of rejects" in quality.metadata["details"].value
    assert "blocking check" in found["data/valid-emoji", "pushed"].description
    assert version(instance, VALID) is not None
    assert version(instance, MODEL) is None


def test_a_broken_warning_rule_lets_everything_run(toy, instance):
    toy.set(quality="odd")
    result = toy.materialize(instance)

    assert result.success
    warning = checks(result)["data/valid-emoji", "data_warnings"]
    assert not warning.passed
    assert warning.severity == AssetCheckSeverity.WARN


def test_a_stage_that_fails_says_why_and_still_reports_its_checks(toy, instance):
    toy.set(quality="stops")
    result = toy.materialize(instance)

    failure = result.failure_data_for_node("validate__emoji")
    assert "validate@emoji failed: error: too many samples were rejected" in str(failure.error)
    assert not checks(result)["data/valid-emoji", "data_quality"].passed
    assert version(instance, VALID) is None


def test_outputs_are_pushed_to_the_remote(toy, instance, tmp_path):
    toy.dvc("remote", "add", "-d", "local", str(tmp_path / "remote"))
    result = toy.materialize(instance, "data/raw-emoji")

    assert checks(result)["data/raw-emoji", "pushed"].passed
    assert len([path for path in (tmp_path / "remote").rglob("*") if path.is_file()]) == 3


def test_without_a_store_the_run_succeeds_and_the_check_says_what_to_do(toy, instance):
    result = toy.materialize(instance, "data/raw-emoji")

    assert result.success
    pushed = checks(result)["data/raw-emoji", "pushed"]
    assert not pushed.passed
    assert pushed.severity == AssetCheckSeverity.WARN
    assert "store start" in pushed.description


def test_selection_strings_parse_in_the_same_environment_as_dvc(toy):
    import dvc.repo  # noqa: F401  # its dependencies once broke Dagster's parser

    assets = dvc_assets(load_project(toy.root))
    chosen = AssetSelection.from_string('key:"data/raw-emoji"+ and group:data').resolve(assets)
    assert chosen == {RAW, VALID, AssetKey(["reports", "validation-emoji"])}


def test_a_run_says_which_commit_and_profile_it_works_on(toy, instance):
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "add", "-A"], cwd=toy.root, check=True)
    subprocess.run([*git, "commit", "-qm", "first"], cwd=toy.root, check=True)
    subprocess.run(["git", "tag", "champion@v1.0.0"], cwd=toy.root, check=True)
    head = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=toy.root, capture_output=True, text=True, check=True
    ).stdout.strip()
    clean = toy.materialize(instance, "data/raw-emoji")
    (toy.root / "params.yaml").write_text("profile: smoke\n" + (toy.root / "params.yaml").read_text())
    dirty = toy.materialize(instance, "data/raw-emoji")

    tags = instance.get_run_by_id(clean.run_id).tags
    assert tags["git/commit"] == head
    assert "clipfoundry/profile" not in tags
    tags = instance.get_run_by_id(dirty.run_id).tags
    assert tags["git/commit"] == f"{head}-dirty"
    assert tags["clipfoundry/profile"] == "smoke"


def test_the_tags_of_a_run_are_those_of_its_first_step(toy, instance):
    # ingest writes a tracked file here, so a tag written later would say "dirty"
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    (toy.root / "dvc.lock").write_text("schema: '2.0'\n")
    subprocess.run([*git, "add", "-A"], cwd=toy.root, check=True)
    subprocess.run([*git, "commit", "-qm", "first"], cwd=toy.root, check=True)
    result = toy.materialize(instance)
    assert result.success
    assert "dirty" not in instance.get_run_by_id(result.run_id).tags["git/commit"]


def test_a_stage_names_its_checks(toy, instance):
    text = (toy.root / "dvc.yaml").read_text()
    line = "          checks: data/valid/${key}/checks.json\n"
    (toy.root / "dvc.yaml").write_text(text.replace(line, line + "          check_names: [errors, rules]\n"))
    toy.set(quality="bad")

    found = checks(toy.materialize(instance))

    assert not found["data/valid-emoji", "errors"].passed
    assert ("data/valid-emoji", "rules") in found
    assert ("data/valid-emoji", "data_quality") not in found
    assert version(instance, MODEL) is None
