"""Champions in a real store: published whole, pulled by DVC elsewhere, loaded by open_clip, and never half there."""

import json
import signal
import zlib
from pathlib import Path

import open_clip
import pytest
import torch

from assets.errors import DataError, StoreError
from assets.manifest import file_facts, version_of
from assets.store import Store
from pipelines import store_server
from pipelines.dvc_remote import configure_dvc_remote
from pipelines.promotion.promote import promote
from pipelines.promotion.publish import read_pointer
from pipelines.promotion.rollback import rollback
from tests.conftest import ONLY_SEAWEEDFS
from tests.evaluation.squares import write_model
from tests.pipelines.registry_project import NAME, Project, make_project, promote_and_die, run

pytestmark = [pytest.mark.slow, ONLY_SEAWEEDFS]

STEPS = ("added", "pushed", "object open_clip_config.json", "object promotion.json", "pointed", "recorded")


class Registry:
    """A project whose champions go to buckets of its own.

    Attributes:
        project: The project.
        store: The store that DVC pushes to.
        champions: The same server with the bucket for champions.
    """

    def __init__(self, object_store, root: Path, bucket: str) -> None:
        config = object_store.config.model_copy(update={"bucket": f"{bucket}-dvc"})
        self.keys = object_store.keys
        self.store = Store(config, object_store.store.credentials)
        self.store.ensure_bucket()
        self.project = make_project(root, self.store, bucket)
        configure_dvc_remote(config, self.store.credentials, root)
        self.champions = Store(config.model_copy(update={"bucket": bucket}), self.store.credentials)

    def train(self, seed: int) -> str:
        model = self.project.train(lambda folder: write_model(folder, "clip-s0", seed) and None)
        self.project.decide()
        return model

    def names(self) -> list[str]:
        return sorted(item.name for item in self.champions.list_objects())

    def pointer(self) -> dict | None:
        return read_pointer(self.champions, NAME)

    def download(self, folder: Path) -> dict:
        """Fetch what the pointer names, as somebody without git and DVC would, and return promotion.json."""
        pointer = self.pointer()
        for item in self.champions.list_objects(pointer["prefix"]):
            target = folder / item.name.removeprefix(pointer["prefix"])
            self.champions.client.fget_object(self.champions.config.bucket, item.name, str(target))
        return json.loads((folder / "promotion.json").read_text())


@pytest.fixture
def registry(object_store, tmp_path, request):
    return Registry(object_store, tmp_path / "project", f"models-{zlib.crc32(request.node.name.encode()):08x}")


def test_a_published_champion_is_whole_loads_in_open_clip_and_rolls_back(registry, tmp_path):
    project = registry.project
    first = registry.train(0)

    done = promote(project.root, NAME, registry.store)

    bucket = registry.champions.config.bucket
    assert done.published == project.history.champion.published == f"s3://{bucket}/champion/v1.0.0"
    facts = registry.download(tmp_path / "one")
    files = {p.relative_to(project.folder).as_posix(): p for p in project.folder.rglob("*") if p.is_file()}
    assert facts["files"] == {name: file_facts(path) for name, path in files.items()}
    for name, path in files.items():
        assert (tmp_path / "one" / name).read_bytes() == path.read_bytes()
    assert set(facts["files"]) | {"promotion.json"} == {path.name for path in (tmp_path / "one").iterdir()}
    assert (facts["model"], facts["decision"]["verdict"], facts["tag"]) == (first, "promote", "champion@v1.0.0")
    assert facts["commit"] == project.git("rev-parse", "HEAD~1")
    there, here = (
        open_clip.create_model_and_transforms(f"local-dir:{folder}")[0].eval()
        for folder in (tmp_path / "one", project.root / "models/clip-s0")
    )
    image = torch.rand(1, 3, *there.visual.image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(there.encode_image(image), here.encode_image(image))

    second = registry.train(1)
    assert promote(project.root, NAME, registry.store).version == 2
    assert registry.pointer() == {
        **{"version": 2, "tag": "champion@v2.0.0", "prefix": "champion/v2.0.0/", "model": second},
        "when": project.history.events[-1].when,
    }
    assert rollback(project.root, NAME, None, registry.store).version == 1
    assert registry.pointer()["model"] == first
    assert registry.download(tmp_path / "back") == facts, "a rollback publishes nothing anew"


def test_another_clone_pulls_the_champion_and_may_roll_back_to_one_it_never_had(registry, tmp_path):
    project = registry.project
    first = registry.train(0)
    promote(project.root, NAME, registry.store)
    second = registry.train(1)
    promote(project.root, NAME, registry.store)
    run(tmp_path, "git", "clone", "-q", str(project.root), "clone")
    clone = Project(tmp_path / "clone")
    clone.git("config", "user.name", "t")
    clone.git("config", "user.email", "t@example.org")
    configure_dvc_remote(registry.store.config, registry.store.credentials, clone.root)
    clone.dvc("pull")
    assert version_of(clone.folder) == second
    assert clone.history == project.history

    assert rollback(clone.root, NAME, None, registry.store).version == 1
    assert version_of(clone.folder) == registry.pointer()["model"] == first


def test_killed_after_every_step_the_pointer_names_only_what_is_whole(registry):
    project = registry.project
    first = registry.train(0)
    promote(project.root, NAME, registry.store)
    second = registry.train(1)
    begin = project.git("rev-parse", "HEAD")
    for step in STEPS:
        assert promote_and_die(project, step, registry.keys) == -signal.SIGKILL, step
        pointed = STEPS.index(step) >= STEPS.index("pointed")
        assert registry.pointer()["model"] == (second if pointed else first), step
        assert not pointed or len([n for n in registry.names() if n.startswith("champion/v2.0.0/")]) == 4
    assert promote(project.root, NAME, registry.store).version == 2
    assert project.git("rev-list", "--count", f"{begin}..HEAD") == "1"
    assert len(project.history.events) == len(project.history.versions) == 2
    assert sorted(project.tags()) == [
        *("champion#production#1", "champion#production#2", "champion@v1.0.0", "champion@v2.0.0"),
    ]


def test_what_a_given_up_attempt_left_in_the_bucket_is_replaced(registry, tmp_path):
    project = registry.project
    registry.champions.ensure_bucket()
    registry.champions.client.fput_object(
        registry.champions.config.bucket, "champion/v1.0.0/stray.bin", str(project.root / "code.py")
    )
    registry.champions.client.fput_object(
        registry.champions.config.bucket, "champion/v1.0.0/open_clip_config.json", str(project.root / "params.yaml")
    )
    registry.train(0)
    promote(project.root, NAME, registry.store)
    registry.download(tmp_path / "one")
    assert not (tmp_path / "one/stray.bin").exists()
    config = "open_clip_config.json"
    assert (tmp_path / "one" / config).read_bytes() == (project.folder / config).read_bytes()


def test_a_pointer_of_another_clone_is_not_overwritten(registry, tmp_path):
    project = registry.project
    registry.train(0)
    run(tmp_path, "cp", "-a", str(project.root), "other")
    other = Project(tmp_path / "other")
    other.train_text("theirs")
    other.decide()
    promote(other.root, NAME, registry.store)
    before, state = registry.pointer(), project.state()
    with pytest.raises(DataError, match=r"names champion@v1\.0\.0 of model .* does not know; .git pull"):
        promote(project.root, NAME, registry.store)
    assert (registry.pointer(), project.state()) == (before, state)


def test_a_store_that_is_down_changes_nothing_and_one_that_goes_down_is_waited_for(registry, object_store):
    project = registry.project
    registry.train(0)
    before = project.state()
    store_server.stop(object_store.config, object_store.root)
    try:
        with pytest.raises(StoreError, match="no answer from the store"):
            promote(project.root, NAME, registry.store)
        assert project.state() == before
        assert not (project.root / "work/promotion/champion.json").exists()
    finally:
        store_server.start(object_store.config, object_store.root)

    def stop(step: str) -> None:
        if step == "object manifest.json":
            store_server.stop(object_store.config, object_store.root)

    try:
        with pytest.raises(StoreError, match="no answer from the store"):
            promote(project.root, NAME, registry.store, stop)
        assert project.history.champion is None
        assert project.tags() == []
    finally:
        store_server.start(object_store.config, object_store.root)
    assert promote(project.root, NAME, registry.store).version == 1
    assert registry.pointer()["version"] == 1
