"""What a stage's record and ``meta.dagster`` become in Dagster."""

from datetime import timedelta

import pytest
from dagster import (
    AssetCheckResult,
    AssetCheckSpec,
    AssetSelection,
    DagsterInstance,
    DagsterRunStatus,
    Definitions,
    Output,
    asset,
    evaluate_automation_conditions,
    materialize,
)

from assets.errors import ConfigError
from pipelines.dvc_assets import dvc_assets
from pipelines.dvc_project import Out, StageRecord, load_project
from pipelines.translator import Translator, when_inputs_change

ENTRIES = """
stages:
  train:
    foreach: ${runs}
    do:
      cmd: "true"
      outs:
        - models/${key}
      meta: {dagster: {fresh_days: 7, automatic: true}}
  grid:
    matrix:
      size: [32, 64]
      extra:
        - {wide: true}
    cmd: echo ${item.size}
    outs:
      - grid/${key}
  each:
    foreach:
      - one
      - two
    do:
      cmd: echo ${item}
      outs:
        - each/${item}
  alone:
    cmd: "true"
    outs:
      - alone
"""
RUNS = """
runs:
  clip-s0: {recipe: clip, seed: 0, policy: none, dataset: emoji, empty: "", rate: 0.1, on: true, steps: 100,
            "strange key": "a b/c", long: LONG}
  tldr-s0: {recipe: tldr, seed: 1}
""".replace("LONG", "x" * 90)


def stage(**meta):
    outs = (Out("data/valid/emoji", "out", True),)
    return StageRecord("validate@emoji", (), "", (), (), outs, {"dagster": meta})


@pytest.fixture
def project(tmp_path):
    (tmp_path / "dvc.yaml").write_text(ENTRIES)
    (tmp_path / "params.yaml").write_text(RUNS)
    return load_project(tmp_path)


def test_an_entry_says_its_name_and_the_scalars_of_its_item(project):
    said = project.stages["train@clip-s0"].entry
    assert next(iter(said)) == "entry"
    assert said["entry"] == "clip-s0"
    assert (said["recipe"], said["seed"], said["dataset"]) == ("clip", "0", "emoji")
    assert not said.keys() & {"policy", "empty", "rate", "on"}
    assert project.stages["grid@32-extra0"].entry == {"entry": "32-extra0", "size": "32"}
    assert project.stages["each@two"].entry == {"entry": "two"}
    assert project.stages["alone"].entry == {}


@pytest.mark.slow
def test_tags_are_what_dagster_takes_and_select(project):
    tags = Translator().tags(project.stages["train@clip-s0"])
    assert tags["stage"] == "train"
    assert tags["strange_key"] == "a_b_c"
    assert tags["long"] == "x" * 63
    assert "steps" not in tags

    assets = dvc_assets(project)
    for text, wanted in {
        "tag:recipe=clip": {"models/clip-s0"},
        "tag:seed=1": {"models/tldr-s0"},
        "tag:stage=train": {"models/clip-s0", "models/tldr-s0"},
        "tag:entry=two": {"each/two"},
    }.items():
        found = {key.to_user_string() for key in AssetSelection.from_string(text).resolve(assets)}
        assert found == wanted, text


def test_freshness_and_automation_reach_the_assets(project):
    specs = {spec.key.to_user_string(): spec for found in dvc_assets(project) for spec in found.specs}
    policy = specs["models/clip-s0"].freshness_policy
    assert policy is not None
    assert (policy.warn_window.to_timedelta(), policy.fail_window.to_timedelta()) == (
        timedelta(days=7),
        timedelta(days=14),
    )
    assert specs["models/clip-s0"].automation_condition is not None
    assert specs["alone"].freshness_policy is None
    assert specs["alone"].automation_condition is None


@pytest.mark.parametrize("days", [0, -1, "7", True, float("nan")])
def test_days_that_are_no_number_above_nothing_are_refused(days):
    with pytest.raises(ConfigError, match=r"validate@emoji: meta.dagster.fresh_days.*above 0"):
        Translator().freshness(stage(fresh_days=days))


def test_automatic_is_true_or_false():
    assert Translator().automation(stage(automatic=False)) is None
    with pytest.raises(ConfigError, match=r"meta.dagster.automatic.*true or false"):
        Translator().automation(stage(automatic="yes"))


@pytest.mark.parametrize("names", [["one"], ["a", "a"], ["a", "pushed"], ["a b", "c"], "ab", ["a", "b", "c"]])
def test_names_of_checks_are_two_and_legal(names):
    assert Translator().check_pair(stage()) == ("data_quality", "data_warnings")
    assert Translator().check_pair(stage(check_names=["errors", "rules"])) == ("errors", "rules")
    with pytest.raises(ConfigError, match=r"meta.dagster.check_names"):
        Translator().check_pair(stage(check_names=names))


class Cheap:
    """A costly asset with a blocking check, a cheap one that reads it, and the daemon's ticks."""

    def __init__(self) -> None:
        self.sound = True

        @asset(check_specs=[AssetCheckSpec("sound", asset="costly", blocking=True)])
        def costly():
            yield from self.costly()

        @asset(deps=[costly], automation_condition=when_inputs_change())
        def cheap() -> None: ...

        self.assets = [costly, cheap]
        self.defs = Definitions(self.assets)
        self.instance = DagsterInstance.ephemeral()
        self.cursor = None

    def costly(self):
        yield Output(1)
        yield AssetCheckResult(passed=self.sound)

    def make(self, selection: str) -> None:
        materialize(self.assets, instance=self.instance, selection=selection, raise_on_error=False)

    def requested(self) -> int:
        result = evaluate_automation_conditions(self.defs, self.instance, cursor=self.cursor)
        self.cursor = result.cursor
        return result.total_requested


@pytest.mark.slow
def test_a_cheap_stage_runs_once_after_its_input_was_made_and_not_when_the_sensor_is_switched_on():
    project = Cheap()
    assert project.requested() == 0
    project.make("costly")
    assert project.requested() == 1
    assert project.requested() == 0
    project.make("cheap")
    assert project.requested() == 0
    project.make("*")
    assert project.requested() == 0


@pytest.mark.slow
def test_a_cheap_stage_waits_for_a_blocking_check():
    project = Cheap()
    project.make("*")
    assert project.requested() == 0
    project.sound = False
    project.make("costly")
    assert project.requested() == 0
    project.sound = True
    project.make("costly")
    assert project.requested() == 1


@pytest.mark.slow
def test_a_cheap_stage_waits_while_its_input_is_being_made():
    project = Cheap()
    project.make("*")
    assert project.requested() == 0
    project.make("costly")
    job = project.defs.resolve_implicit_global_asset_job_def()
    run = project.instance.create_run_for_job(
        job, asset_selection=frozenset({project.assets[0].key}), status=DagsterRunStatus.STARTED
    )
    assert project.requested() == 0
    project.instance.report_run_canceled(run)
    project.make("costly")
    assert project.requested() == 1
