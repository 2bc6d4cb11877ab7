from pathlib import Path

import pytest
from dagster import AssetKey, DagsterRunStatus, SensorResult, SkipReason, build_sensor_context
from dagster._core.test_utils import create_run_for_test

from pipelines.dagster_project import build_definitions
from pipelines.dvc_project import load_project, read_lock
from pipelines.sensors import build_sensor, recorded_version

pytestmark = pytest.mark.slow


CHAMPION = AssetKey(["models", "champion"])
POINTER = """outs:
- md5: {md5}.dir
  size: 5
  nfiles: 2
  hash: md5
  path: champion
"""


def tick(toy, instance, cursor=None, extra=None):
    """Evaluate the sensor once and store what it reports, as the daemon does."""
    sensor = build_sensor(load_project(toy.root), extra=extra)
    result = sensor(build_sensor_context(instance=instance, cursor=cursor))
    if isinstance(result, SensorResult):
        for event in result.asset_events:
            instance.report_runless_asset_event(event)
    return result


def stale(toy, instance):
    from dagster._core.definitions.data_version import CachingStaleStatusResolver
    from dagster._core.loader import LoadingContextForTest

    graph = build_definitions(toy.root).get_repository_def().asset_graph
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    return {key.to_user_string(): resolver.get_status(key).value for key in graph.materializable_asset_keys}


def test_a_repro_run_by_hand_appears_with_its_versions_and_checks(toy, instance):
    assert isinstance(tick(toy, instance), SkipReason)
    toy.dvc("repro", "-q")

    result = tick(toy, instance)

    lock = read_lock(toy.root)
    assert (
        recorded_version(instance, AssetKey(["models", "clip-s0"]))
        == lock["pretrain@clip-s0"].outs["models/clip-s0"].md5
    )
    event = instance.get_latest_materialization_event(AssetKey(["data", "valid-emoji"]))
    assert event.run_id == ""
    assert {event.check_name for event in result.asset_events if hasattr(event, "check_name")} == {
        "data_quality",
        "data_warnings",
    }
    assert set(stale(toy, instance).values()) == {"FRESH"}
    assert isinstance(tick(toy, instance, result.cursor), SkipReason)


def test_only_what_changed_is_reported(toy, instance):
    toy.dvc("repro", "-q")
    first = tick(toy, instance)
    toy.set(samples=5)
    toy.dvc("repro", "-q", "-s", "ingest@emoji")

    second = tick(toy, instance, first.cursor)

    assert [event.asset_key.to_user_string() for event in second.asset_events] == ["data/raw-emoji"]
    found = stale(toy, instance)
    assert found["data/raw-emoji"] == "FRESH"
    assert found["data/valid-emoji"] == "STALE"


def test_runs_of_dagster_itself_are_not_reported_again(toy, instance):
    toy.materialize(instance, "data/raw-emoji")
    assert tick(toy, instance).asset_events == []


def test_the_lock_is_left_alone_while_a_run_is_in_progress(toy, instance):
    toy.dvc("repro", "-q", "ingest")
    create_run_for_test(instance, status=DagsterRunStatus.STARTED)
    assert isinstance(tick(toy, instance), SkipReason)


def test_an_experiment_works_elsewhere_and_is_not_waited_for(toy, instance):
    toy.dvc("repro", "-q", "ingest")
    create_run_for_test(instance, job_name="experiment", status=DagsterRunStatus.STARTED)
    assert isinstance(tick(toy, instance), SensorResult)


def test_an_input_remade_with_the_same_version_leaves_what_came_of_it_fresh(toy, instance, monkeypatch):
    stamps = {path.stem: {"code": "0" * 16} for path in (toy.root / "stamps").glob("*.json")} or {
        name: {"code": "0" * 16} for name in ("ingest", "validate", "train")
    }
    monkeypatch.setattr("pipelines.dvc_assets.compute_stamps", lambda params: stamps)
    toy.dvc("repro", "-q")
    tick(toy, instance)

    assert toy.materialize(instance, "data/valid-emoji", "reports/validation-emoji").success

    assert set(stale(toy, instance).values()) == {"FRESH"}


def test_a_folder_that_dvc_add_keeps_is_reported_with_its_version(toy, instance):
    extra = {CHAMPION: Path("models/champion.dvc")}
    toy.dvc("repro", "-q", "ingest")
    first = tick(toy, instance, extra=extra)
    assert recorded_version(instance, CHAMPION) is None
    file = toy.root / "models/champion.dvc"
    file.parent.mkdir(exist_ok=True)
    file.write_text(POINTER.format(md5="a" * 32))

    second = tick(toy, instance, first.cursor, extra=extra)

    assert [event.asset_key for event in second.asset_events] == [CHAMPION]
    assert recorded_version(instance, CHAMPION) == "a" * 32 + ".dir"
    assert second.asset_events[0].metadata["files"].value == 2
    assert isinstance(tick(toy, instance, second.cursor, extra=extra), SkipReason)
    file.write_text(POINTER.format(md5="b" * 32))
    tick(toy, instance, second.cursor, extra=extra)
    assert recorded_version(instance, CHAMPION) == "b" * 32 + ".dir"
