"""Recurring retraining as its users live it: shards dropped into a real store, a real daemon, a browser on the UI."""

import io
import json
import os
import shutil
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dagster import AssetKey, DagsterEventType, DagsterInstance, DagsterRunStatus, RunsFilter
from ruamel.yaml import YAML

from assets.deliveries.batches import reject
from assets.deliveries.upload import deliver
from assets.store import STORE_FOLDER, Store
from evaluation.promotion.champions import CHAMPIONS, read_history
from pipelines.automation.retraining import RETRAIN, STARTED_BY
from pipelines.dvc_project import read_lock
from pipelines.dvc_remote import configure_dvc_remote
from pipelines.sensors import recorded_version
from pipelines.ui import Server, serve
from tests.conftest import ONLY_MINIO
from tests.pipelines.test_ui import LAUNCH, ask
from tests.pipelines.ui_walk import Walk, browser_page, find_browser, free_port
from tests.project_copy import REPOSITORY, copy_project, run

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(1800), ONLY_MINIO]

PREFIX = "incoming/mine/"
MODEL, CHAMPION, VALID = (
    AssetKey(["models", "clip-s0"]),
    AssetKey(["models", "champion"]),
    AssetKey(["data", "valid-mine"]),
)
IN_REPOSITORY = {"repositoryLocationName": "clipfoundry", "repositoryName": "__repository__"}
START_SCHEDULE = "mutation($selector: ScheduleSelector!) { startSchedule(scheduleSelector: $selector) { __typename } }"


def scenes(seed: int, train: int) -> dict[str, Any]:
    params = YAML(typ="safe").load((REPOSITORY / "profiles/smoke.yaml").read_text(encoding="utf-8"))
    dataset = params["datasets"]["emoji"]
    dataset["samples_per_shard"] = 60
    dataset["source"] |= {"seed": seed, "image_size": 64, "num_concepts": 30, "num_classes": 10, "noise_share": 0.0}
    dataset["source"]["duplicate_share"] = 0.0
    dataset["source"]["sizes"] |= {"train": train, "test": 20, "test_style": 20, "test_pairs": 20}
    return dataset


def write_params(root: Path, store: Store, datasets: dict[str, Any], **sections: Any) -> None:
    params = YAML(typ="safe").load((REPOSITORY / "profiles/smoke.yaml").read_text(encoding="utf-8"))
    recipe = params["recipes"]["clip"]
    recipe["budget"] = {"samples_seen": 1600, "batch_size": 32}
    recipe["holdout"] = {"pairs": 16, "every": 10}
    params["store"] = store.config.model_dump(mode="json")
    params |= {"datasets": datasets, "recipes": {"clip": recipe}, **sections}
    evaluators = params["evaluation"]["evaluators"]
    params["evaluation"]["evaluators"] = {name: evaluators[name] for name in ("zero_shot", "retrieval")}
    params["report"]["columns"] = ["zero_shot.in_domain.top1"]
    YAML(typ="safe").dump(params, root / "params.yaml")


@dataclass(frozen=True)
class Farm:
    """A clone of the project whose data set takes deliveries, and tars to deliver.

    Attributes:
        root: The clone.
        tars: Holds the folders ``more`` and ``broken`` of tars.
        store: The connected store.
    """

    root: Path
    tars: Path
    store: Store

    def deliver(self, folder: str) -> None:
        deliver(self.store, PREFIX, folder, sorted((self.tars / folder).glob("*.tar")))

    @property
    def champion(self) -> int | None:
        return read_history(self.root / CHAMPIONS, "champion").current


def spoil(folder: Path) -> None:
    """Give every pair of some tars a caption that says nothing."""
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as before:
            members = [(member, before.extractfile(member)) for member in before.getmembers()]
            contents = [(member, stream.read() if stream else b"") for member, stream in members]
        with tarfile.open(path, "w") as after:
            for member, content in contents:
                content = b"untitled" if member.name.endswith(".txt") else content
                member.size = len(content)
                after.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="module")
def farm(object_store, tmp_path_factory: pytest.TempPathFactory) -> Farm:
    root = tmp_path_factory.mktemp("farm") / "clone"
    tars = root.parent / "tars"
    copy_project(root)
    run(root, "git", "config", "user.name", "Robin")
    run(root, "git", "config", "user.email", "robin@example.org")
    store = Store(object_store.config.model_copy(update={"bucket": "retraining"}), object_store.store.credentials)
    store.ensure_bucket()
    (root / STORE_FOLDER).mkdir()
    shutil.copy(object_store.keys / "credentials.json", root / STORE_FOLDER / "credentials.json")
    configure_dvc_remote(store.config, store.credentials, root)
    write_params(root, store, {"base": scenes(0, 240), "more": scenes(1, 120), "broken": scenes(2, 240)}, runs={})
    for name in ("base", "more", "broken"):
        run(root, sys.executable, "-m", "assets", "ingest", "--name", name)
        shutil.copytree(root / "data/raw" / name / "train", tars / name)
    for split in ("test", "zero_shot"):
        shutil.copytree(root / "data/raw/base" / split, tars / split)
    classes = json.loads((root / "data/raw/base/dataset.json").read_text(encoding="utf-8"))["classes"]
    (tars / "classes.txt").write_text("".join(f"{entry['name']}\t{entry['group']}\n" for entry in classes))
    spoil(tars / "broken")
    shutil.rmtree(root / "data/raw")
    source = {
        "kind": "webdataset",
        "licence": "CC-BY-4.0",
        "attribution": ["Twemoji"],
        "splits": {
            "train": {"shards": f"{tars}/base/*.tar", "deliveries": PREFIX, "role": "train"},
            "test": {"shards": f"{tars}/test/*.tar", "role": "retrieval"},
            "zero_shot": {"shards": f"{tars}/zero_shot/*.tar", "role": "zero_shot", "classes": f"{tars}/classes.txt"},
        },
    }
    mine = {**scenes(0, 240), "source": source}
    run_entry = {"recipe": "clip", "dataset": "mine", "seed": 0}
    run_entry |= dict.fromkeys(("policy", "features", "teacher", "start"), "none")
    champion = {"run": "clip-s0", "dataset": "mine", "metric": "zero_shot.in_domain.top1", "rule": "not_worse"}
    champion |= {"margin": 1.0, "floors": {"retrieval.in_domain.image_to_text_r1": 0.0}, "bucket": "retraining-models"}
    automation = {"cron": "* * * * *", "time_zone": "Europe/Berlin", "fresh_days": 8}
    write_params(
        *(root, store, {"mine": mine}),
        runs={"clip-s0": run_entry},
        promotions={"champion": champion},
        automation=automation,
    )
    run(root, "git", "add", ".")
    run(root, "git", "commit", "-qm", "A farm")
    return Farm(root, tars, store)


@dataclass(frozen=True)
class House:
    """The started UI, and what Dagster remembers."""

    server: Server
    instance: DagsterInstance

    def launch(self, job: str) -> str:
        selector = {**IN_REPOSITORY, "jobName": job}
        found = ask(self.server.url, LAUNCH, params={"selector": selector, "mode": "default"})
        return found["launchPipelineExecution"]["run"]["runId"]

    def retrainings(self) -> list[Any]:
        """Return the runs of ``retrain``, oldest first."""
        return list(reversed(self.instance.get_runs(RunsFilter(job_name=RETRAIN))))

    def wait_for_run(self, number: int, seconds: float = 420) -> Any:
        """Wait until that many retrainings were started and the last of them has ended."""
        wait_until(lambda: len(self.retrainings()) >= number and self.retrainings()[number - 1].is_finished, seconds)
        return self.retrainings()[number - 1]


def wait_until(condition: Callable[[], object], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited {seconds} s in vain"
        time.sleep(1)


@pytest.fixture(scope="module")
def house(farm: Farm) -> Iterator[House]:
    with serve(farm.root, free_port()) as server, DagsterInstance.from_config(str(server.home)) as instance:
        yield House(server, instance)


@pytest.fixture
def walk(house: House, tmp_path: Path) -> Iterator[Walk]:
    executable = find_browser()
    if executable is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must have a Chromium; install the Debian package chromium")
        pytest.skip("no Chromium on this machine; install the package chromium to run this test")
    pictures = Path(os.environ.get("CLIPFOUNDRY_PICTURES") or tmp_path / "pictures")
    with browser_page(executable) as page:
        yield Walk(page, house.server.url, pictures)


def versions_agree(farm: Farm, house: House) -> bool:
    lock = read_lock(farm.root)
    wanted = {
        MODEL: lock["pretrain@clip-s0"].outs["models/clip-s0"],
        VALID: lock["validate@mine"].outs["data/valid/mine"],
    }
    return all(recorded_version(house.instance, key) == version.md5 for key, version in wanted.items())


def test_delivered_data_becomes_a_new_champion_and_broken_data_does_not(farm: Farm, house: House, walk: Walk):
    first = house.launch(RETRAIN)
    wait_until(lambda: "progress/pretrain__clip_s0" in house.instance.get_run_by_id(first).tags, 300)
    text = walk.run(first, "training")
    assert "train" in text and "ETA" in text, "the run's page shows progress"
    assert house.wait_for_run(1).status == DagsterRunStatus.SUCCESS
    assert farm.champion == 1
    assert versions_agree(farm, house)
    assert "up to date" in run(farm.root, sys.executable, "-m", "dvc", "status", "challenge")
    assert "curves" in walk.asset("models/clip-s0")

    farm.deliver("more")
    second = house.wait_for_run(2)
    assert second.status == DagsterRunStatus.SUCCESS
    assert second.tags[STARTED_BY] == "deliveries"
    assert second.tags["batches/mine"] == "more"
    assert farm.champion == 2
    assert versions_agree(farm, house)
    text = walk.asset("models/champion", "version")
    assert "champion@v2.0.0" in text
    assert run(farm.root, "git", "tag", "--list", "champion@*").split() == ["champion@v1.0.0", "champion@v2.0.0"]
    assert not run(farm.root, "git", "status", "--porcelain")

    before = recorded_version(house.instance, CHAMPION)
    farm.deliver("broken")
    third = house.wait_for_run(3)
    assert third.status == DagsterRunStatus.FAILURE
    assert "rules broken" in walk.checks("data/valid-mine")
    assert farm.champion == 2
    assert recorded_version(house.instance, CHAMPION) == before
    started = house.instance.all_logs(third.run_id, of_type=DagsterEventType.STEP_START)
    assert {event.step_key for event in started} == {"ingest__mine", "validate__mine"}, "went on with broken data"

    reject(farm.root / "batches/mine.json", "mine", "broken", "captions say nothing")
    fourth = house.wait_for_run(4)
    assert fourth.status == DagsterRunStatus.SUCCESS
    assert farm.champion == 2
    assert "1 run requested" in walk.ticks("sensors/deliveries")

    selector = {**IN_REPOSITORY, "scheduleName": "retrain_on_schedule"}
    assert (
        ask(house.server.url, START_SCHEDULE, selector=selector)["startSchedule"]["__typename"] == "ScheduleStateResult"
    )
    wait_until(lambda: any(each.tags.get(STARTED_BY) == "schedule" for each in house.retrainings()), 150)
    assert "1 run requested" in walk.ticks("schedules/retrain_on_schedule")
