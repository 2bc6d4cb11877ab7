import pytest
from dagster import DagsterRunStatus, RunRequest, SensorResult, SkipReason, build_schedule_context, build_sensor_context
from dagster._core.test_utils import create_run_for_test
from ruamel.yaml import YAML

from assets.deliveries.batches import read_batches, reject
from assets.deliveries.upload import deliver
from assets.errors import ConfigError
from assets.section import parse
from assets.store import Store
from pipelines.automation.config import AutomationConfig
from pipelines.automation.delivery_sensor import delivery_sensor
from pipelines.automation.retraining import RETRAIN, STARTED_BY, retrain_job, retrain_schedule
from pipelines.automation.take import take
from pipelines.dagster_project import build_definitions
from pipelines.dvc_assets import dvc_assets
from pipelines.dvc_project import load_project
from tests.assets.sources.test_webdataset import make_tar, pair
from tests.conftest import ONLY_MINIO

WEEKLY = {"cron": "0 3 * * 1", "time_zone": "UTC", "fresh_days": 8}


@pytest.mark.parametrize("cron", ["0 3 * * 1", "*/5 * * * *", "0 0-6/2,12 1,15 * *", "30 23 31 12 7"])
def test_five_fields_of_cron_are_taken(cron):
    assert parse(AutomationConfig, {**WEEKLY, "cron": cron}, "automation").cron == cron


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"cron": "weekly"}, "wanted five fields"),
        ({"cron": "0 3 * *"}, "wanted five fields"),
        ({"cron": "60 3 * * 1"}, "the minute is '60'"),
        ({"cron": "0 3 0 * 1"}, "the day of the month is '0'"),
        ({"cron": "0 3 * * mon"}, "the day of the week is 'mon'"),
        ({"cron": "0 6-3 * * 1"}, "the hour is '6-3'"),
        ({"cron": "0 */0 * * 1"}, r"the hour is '\*/0'"),
        ({"time_zone": "Europe/Berln"}, "did you mean 'Europe/Berlin'"),
        ({"time_zone": "../etc/passwd"}, "unknown time zone"),
        ({"fresh_days": 0}, "greater than 0"),
        ({"weekly": True}, "unknown key 'weekly'"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_wanted(values, fault):
    with pytest.raises(ConfigError, match=fault):
        parse(AutomationConfig, {**WEEKLY, **values}, "automation")


@pytest.fixture
def job(toy):
    return retrain_job(dvc_assets(load_project(toy.root)), [])


def test_the_schedule_starts_a_retraining_in_its_zone_unless_one_goes_on(toy, instance, job):
    schedule = retrain_schedule(parse(AutomationConfig, {**WEEKLY, "time_zone": "Asia/Tokyo"}, "automation"), job)
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("0 3 * * 1", "Asia/Tokyo")

    first = schedule(build_schedule_context(instance))
    assert isinstance(first, RunRequest)
    assert first.tags[STARTED_BY] == "schedule"

    create_run_for_test(instance, job_name="everything", status=DagsterRunStatus.STARTED)
    assert isinstance(schedule(build_schedule_context(instance)), RunRequest)
    create_run_for_test(instance, job_name=RETRAIN, status=DagsterRunStatus.STARTED)
    assert isinstance(schedule(build_schedule_context(instance)), SkipReason)


@pytest.fixture
def delivering(toy, object_store, tmp_path):
    """The toy project with a store of its own, and tars to deliver."""
    bucket = f"automation-{tmp_path.name[-20:].replace('_', '-').strip('-')}".lower()[:60]
    store = Store(object_store.config.model_copy(update={"bucket": bucket}), object_store.store.credentials)
    store.ensure_bucket()
    make_tar(tmp_path / "tars/00000.tar", pair("0001", "a dog"))
    return store, tmp_path / "tars/00000.tar"


def look(toy, instance, job, store, monkeypatch, cursor=None):
    splits = [("emoji", "train", "incoming/emoji/")]
    monkeypatch.setattr(
        "pipelines.automation.delivery_sensor.take", lambda *args, **more: take(*args, **more, store=store)
    )
    return delivery_sensor(toy.root, splits, job)(build_sensor_context(instance, cursor=cursor))


@ONLY_MINIO
@pytest.mark.slow
def test_a_whole_batch_is_taken_once_and_a_half_one_never(toy, instance, job, delivering, monkeypatch):
    store, tar = delivering
    nothing = look(toy, instance, job, store, monkeypatch)
    assert isinstance(nothing, SensorResult) and nothing.skip_reason and not nothing.run_requests

    store.client.fput_object(store.config.bucket, "incoming/emoji/half/00000.tar", str(tar))
    half = look(toy, instance, job, store, monkeypatch, nothing.cursor)
    assert not half.run_requests
    assert "incoming/emoji/half" in half.skip_reason.skip_message
    assert not read_batches(toy.root / "batches/emoji.json").accepted

    deliver(store, "incoming/emoji/", "whole", [tar])
    whole = look(toy, instance, job, store, monkeypatch, half.cursor)
    (request,) = whole.run_requests
    assert request.tags == {STARTED_BY: "deliveries", "batches/emoji": "whole"}
    assert [batch.batch for batch in read_batches(toy.root / "batches/emoji.json").accepted] == ["whole"]

    again = look(toy, instance, job, store, monkeypatch, whole.cursor)
    assert not again.run_requests

    reject(toy.root / "batches/emoji.json", "emoji", "whole", "broken")
    without = look(toy, instance, job, store, monkeypatch, again.cursor)
    assert len(without.run_requests) == 1
    assert without.run_requests[0].run_key != request.run_key


@ONLY_MINIO
@pytest.mark.slow
def test_nothing_is_taken_while_a_run_goes_on(toy, instance, job, delivering, monkeypatch):
    store, tar = delivering
    deliver(store, "incoming/emoji/", "whole", [tar])
    create_run_for_test(instance, status=DagsterRunStatus.STARTED)

    found = look(toy, instance, job, store, monkeypatch)

    assert isinstance(found, SkipReason)
    assert "1 whole batch" in found.skip_message
    assert not (toy.root / "batches/emoji.json").exists()


def test_a_project_without_our_sections_has_assets_and_jobs_only(toy):
    repository = build_definitions(toy.root).get_repository_def()
    assert not repository.schedule_defs
    assert {sensor.name for sensor in repository.sensor_defs} == {"dvc_lock", "lost_runs"}
    assert {"everything", RETRAIN, "experiment"} <= {job.name for job in repository.get_all_jobs()}


def test_the_section_gives_a_schedule_that_is_off(toy):
    params = YAML(typ="safe").load((toy.root / "params.yaml").read_text())
    YAML().dump({**params, "automation": WEEKLY}, toy.root / "params.yaml")
    (schedule,) = build_definitions(toy.root).get_repository_def().schedule_defs
    assert schedule.default_status.value == "STOPPED"
    assert schedule.job_name == RETRAIN
