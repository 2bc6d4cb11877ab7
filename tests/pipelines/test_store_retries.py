"""A store that is down for a while, for real: stages are tried again, pushes too, and nothing else is."""

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from dagster import DagsterEventType, materialize
from ruamel.yaml import YAML

from assets.section import read_yaml
from assets.store import Store, StoreConfig, open_store
from pipelines import store_server
from pipelines.dvc_assets import dvc_assets
from pipelines.dvc_command import DvcCommand, Outcome, stage_environment
from pipelines.dvc_project import load_project
from pipelines.dvc_remote import configure_dvc_remote
from pipelines.process_group import ProcessGroup
from pipelines.push import push
from tests.conftest import ObjectStore

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]

FETCH = """
from pathlib import Path
from assets.atomic import write_json
from assets.command import guarded
from assets.errors import DataError
from assets.section import read_yaml
from assets.section import read_yaml
from assets.store import Store, StoreConfig, open_store


def fetch():
    with Path("tries").open("a") as file:
        file.write("x")
    if Path("broken").exists():
        raise DataError("broken for good")
    config = StoreConfig.model_validate(read_yaml(Path("params.yaml"))["store"])
    open_store(config, Path(".store")).health()
    write_json(Path("data/raw/emoji/manifest.json"), {"counts": {"samples": 3}})


raise SystemExit(guarded(fetch))
"""


class Shop:
    """The toy with a store of its own, and a first stage that asks it."""

    def __init__(self, toy, root: Path) -> None:
        self.toy, self.config, self.root = toy, object_store_config(root), root
        recipe = toy.root / "dvc.yaml"
        recipe.write_text(recipe.read_text().replace("python toy_stages.py ingest ${key}", "python fetch.py"))
        (toy.root / "fetch.py").write_text(FETCH)
        params = toy.root / "params.yaml"
        params.write_text(f"{params.read_text()}store: {self.config.model_dump_json()}\n")
        (toy.root / ".store").symlink_to(root / ".store")

    @property
    def tries(self) -> int:
        file = self.toy.root / "tries"
        return len(file.read_text()) if file.is_file() else 0

    def run(self, instance, retry_seconds: tuple[float, ...]):
        command = DvcCommand(self.toy.root, retry_seconds=retry_seconds)
        assets = dvc_assets(load_project(self.toy.root), command=command)
        return materialize(assets, instance=instance, selection='key:"data/raw-emoji"', raise_on_error=False)

    def opens_when(self, ready: Callable[[], bool]) -> threading.Thread:
        """Start the store once something has happened."""

        def wait() -> None:
            until = time.monotonic() + 120
            while not ready() and time.monotonic() < until:
                time.sleep(0.1)
            store_server.start(self.config, self.root)

        thread = threading.Thread(target=wait)
        thread.start()
        return thread

    def open(self) -> Store:
        """Start the store and make it DVC's remote."""
        store_server.start(self.config, self.root)
        store = open_store(self.config, self.root / ".store")
        shutil.copy(REPOSITORY / ".dvc/config", self.toy.root / ".dvc/config")
        configure_dvc_remote(self.config, store.credentials, self.toy.root)
        return store

    def make_params_whole(self) -> None:
        """Give params.yaml every section: a push reads the store from there, and the toy's own would be refused."""
        params = read_yaml(REPOSITORY / "profiles/demo.yaml") | {"store": self.config.model_dump()}
        YAML().dump(params, self.toy.root / "params.yaml")

    def close(self) -> None:
        store_server.stop(self.config, self.root)

    def dvc(self, arguments: list[str]) -> Outcome:
        outcome = Outcome()
        command = [sys.executable, "-m", "dvc", *arguments]
        outcome.code = ProcessGroup(command, self.toy.root, stage_environment(), outcome.line).wait()
        return outcome


def object_store_config(root: Path) -> StoreConfig:
    """A store that was started once, so that it has keys and a bucket, and was stopped again."""
    server = ObjectStore("seaweedfs", root)
    store_server.stop(server.config, root)
    return server.config


@pytest.fixture
def shop(toy, tmp_path):
    shop = Shop(toy, tmp_path / "store")
    yield shop
    shop.close()


def events(result, kind: DagsterEventType) -> int:
    return sum(event.event_type == kind for event in result.all_events)


def test_a_stage_waits_for_a_store_that_comes_back(shop, instance):
    opening = shop.opens_when(lambda: shop.tries == 1)
    result = shop.run(instance, retry_seconds=(20.0, 20.0))
    opening.join()
    assert result.success
    assert shop.tries == 2
    assert events(result, DagsterEventType.STEP_UP_FOR_RETRY) == 1
    assert (shop.toy.root / "data/raw/emoji/manifest.json").is_file()


def test_a_store_that_stays_away_fails_the_stage_with_its_reason_after_the_last_try(shop, instance):
    result = shop.run(instance, retry_seconds=(0.1, 0.2))
    assert not result.success
    assert shop.tries == 3
    failure = next(event for event in result.all_events if event.is_step_failure)
    text = failure.step_failure_data.error.to_string() + failure.step_failure_data.user_failure_data.description
    assert "no answer from the store" in text


def test_any_other_fault_is_not_tried_again(shop, instance):
    (shop.toy.root / "broken").touch()
    result = shop.run(instance, retry_seconds=(0.1, 0.2))
    assert not result.success
    assert shop.tries == 1
    assert events(result, DagsterEventType.STEP_UP_FOR_RETRY) == 0


def test_a_push_waits_for_a_store_that_comes_back_and_warns_about_one_that_does_not(shop):
    toy = shop.toy
    shop.open()
    toy.dvc("repro", "-q", "stamps", "ingest")
    shop.close()
    shop.make_params_whole()

    refused = push(toy.root, "ingest@emoji", shop.dvc, pauses=(0.1,))
    assert not refused.passed
    assert "no answer from the store" in refused.text
    assert "(tried 2 times)" in refused.text

    started = time.monotonic()
    opening = shop.opens_when(lambda: time.monotonic() > started + 0.5)
    pushed = push(toy.root, "ingest@emoji", shop.dvc, pauses=(20.0,))
    opening.join()
    assert pushed.passed, pushed.text
    assert "is missing" not in toy.dvc("status", "--cloud", "ingest@emoji")


def test_a_store_killed_in_the_middle_of_a_push_gets_everything_in_the_end(shop):
    root, store = shop.toy.root, shop.open()
    shop.make_params_whole()
    content = {f"{number:05d}.tar": os.urandom(20_000 + number) for number in range(150)}
    (root / "many").mkdir()
    for name, data in content.items():
        (root / "many" / name).write_bytes(data)
    shop.toy.dvc("add", "-q", "many")
    before: list[int] = []

    def kill_and_start() -> None:
        while len(arrived := list(store.list_objects())) < 30:
            time.sleep(0.05)
        os.kill(store_server.status(shop.config, shop.root).pid, signal.SIGKILL)
        before.append(len(arrived))
        time.sleep(2)
        store_server.start(shop.config, shop.root)

    killer = threading.Thread(target=kill_and_start)
    killer.start()
    pushed = push(root, "many.dvc", shop.dvc, pauses=(15.0, 15.0))
    killer.join()

    assert pushed.passed, pushed.text
    assert before[0] < len(content), "the push was over before the store was killed"
    shutil.rmtree(root / "many")
    shutil.rmtree(root / ".dvc/cache")
    shop.toy.dvc("pull", "-q", "many.dvc")
    assert {path.name: path.read_bytes() for path in (root / "many").iterdir()} == content
