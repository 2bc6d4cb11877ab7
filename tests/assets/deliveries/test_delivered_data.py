"""Data sets that grow by deliveries: ingested from a real store, in place and copied."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import yaml

from assets.__main__ import main
from assets.deliveries.batches import BATCHES, accept, read_batches, reject
from assets.deliveries.look import look
from assets.deliveries.upload import deliver
from assets.errors import DataError
from assets.index import content_hash, read_index
from assets.ingest import ingest
from assets.manifest import read_manifest, version_of
from assets.members import read_member
from assets.section import parse
from assets.shard_cache import ShardCache
from assets.sources.base import Means, open_source
from assets.sources.webdataset.config import WebDatasetConfig
from tests.assets.sources.test_webdataset import make_tar, pair, picture

REPOSITORY = Path(__file__).resolve().parents[3]


class Grower:
    """A data set on deliveries.

    Attributes:
        store: Where they arrive.
        cache: The copies of its shards.
        path: Its file of accepted batches.
    """

    def __init__(self, root: Path, object_store, prefix: str) -> None:
        self.root, self.store, self.prefix = root, object_store.store, prefix
        self.put = object_store.put
        self.cache = ShardCache(root / "cache", 1 << 20, object_store.config, object_store.keys)
        self.path = root / BATCHES / "mine.json"

    def deliver(self, batch: str, *tars: list[tuple[str, bytes | str]]) -> None:
        paths = [make_tar(self.root / batch / f"{i:05d}.tar", members) for i, members in enumerate(tars)]
        deliver(self.store, self.prefix, batch, paths)

    def accept(self, *, split: str = "train") -> None:
        accept(self.path, "mine", split, look(self.store, self.prefix, read_batches(self.path)).complete)

    def config(self, in_place: bool, shards: str | None = None, **splits) -> WebDatasetConfig:
        train = {"role": "train", "deliveries": self.prefix, "shards": shards}
        splits = {"train": train, **splits}
        return parse(
            WebDatasetConfig, {"kind": "webdataset", "licence": "CC0", "in_place": in_place, "splits": splits}, "source"
        )

    def ingest(self, config: WebDatasetConfig, name: str = "raw", workers: int = 0) -> Path:
        out = self.root / "data" / name
        settings = config.model_dump(mode="json")
        means = Means(self.cache, batches=self.path)
        ingest("mine", config, settings, 2, out, self.root / "work", workers, means)
        return out


@pytest.fixture
def grower(tmp_path, object_store, request):
    return Grower(tmp_path, object_store, f"grow/{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:10]}/")


def keys(raw: Path) -> list[tuple[str, str]]:
    return [(row["split"], row["key"]) for row in read_index(raw).to_pylist()]


@pytest.mark.slow
@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "copied"])
def test_a_data_set_grows_and_keeps_its_samples_and_keys(grower, in_place):
    base = make_tar(grower.root / "base.tar", [*pair("0000", "a dog", 1), *pair("0001", "a cat", 2)])
    test = make_tar(grower.root / "test.tar", pair("0000", "a hen", 3))
    config = grower.config(in_place, str(base), test={"role": "retrieval", "shards": str(test)})
    seen, versions = [], []
    # producers number anew in every batch, and the second comes before the first by name
    for batch in (None, "b", "a"):
        if batch:
            grower.deliver(batch, pair("0000", f"{batch}0", 10), [*pair("0000", f"{batch}1", 11), ("0001.txt", "no")])
            grower.accept()
        raw = grower.ingest(config, workers=2 if batch == "a" else 0)
        seen.append(keys(raw))
        versions.append(version_of(raw))
    assert [key for split, key in seen[2] if split == "train"] == [
        *("0000", "0001"),
        *("b-00000-0000", "b-00001-0000", "b-00001-0001"),
        *("a-00000-0000", "a-00001-0000", "a-00001-0001"),
    ]
    assert set(seen[0]) < set(seen[1]) < set(seen[2]) and len(set(versions)) == 3
    for row in read_index(raw).to_pylist():
        if row["image_size"]:
            image = read_member(raw, row["shard"], row["image_offset"], row["image_size"], grower.cache)
            assert content_hash(image) == row["image_hash"]
    stored = [name for name in read_manifest(raw).get("external") or {} if name.startswith("s3://")]
    assert len(stored) == (4 if in_place else 0)


def test_a_batch_that_is_taken_out_leaves_the_others_as_they_were(grower):
    for batch in ("a", "b", "c"):
        grower.deliver(batch, pair("0", batch, 5))
        grower.accept()
    before = keys(grower.ingest(grower.config(True)))
    reject(grower.path, "mine", "b", "blurred")
    assert keys(grower.ingest(grower.config(True))) == [entry for entry in before if entry[1] != "b-00000-0"]
    grower.accept()
    assert [entry.batch for entry in read_batches(grower.path).accepted] == ["a", "c"]


def test_what_is_not_accepted_is_not_seen(grower):
    grower.deliver("one", pair("0", "a dog", 1))
    grower.accept()
    version = version_of(grower.ingest(grower.config(True)))
    grower.deliver("two", pair("0", "a cat", 2))
    grower.put(f"{grower.prefix}half/00000.tar", b"abc")
    assert version_of(grower.ingest(grower.config(True))) == version


@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "copied"])
def test_an_altered_object_is_refused_until_it_is_mended(grower, in_place):
    grower.deliver("one", pair("0", "a dog", 1), pair("1", "a cat", 2))
    grower.accept()
    name = f"{grower.prefix}one/00001.tar"
    whole = (grower.root / "one/00001.tar").read_bytes()
    at = whole.index(b"a cat")
    for altered in (whole[:at] + b"a rat" + whole[at + 5 :], whole + bytes(512)):
        grower.put(name, altered)
        with pytest.raises(
            DataError, match=rf"batch one, s3://clipfoundry/{name}: altered in the store.*reject mine one"
        ):
            grower.ingest(grower.config(in_place))
    grower.put(name, whole)
    assert [key for _, key in keys(grower.ingest(grower.config(in_place)))] == ["one-00000-0", "one-00001-1"]


def test_an_object_altered_between_listing_and_reading_is_refused(grower):
    grower.deliver("one", pair("0", "a dog", 1))
    grower.accept()
    source = open_source(grower.config(False))
    source.prepare(grower.root, Means(grower.cache, batches=grower.path), None)
    assert [split.size for split in source.splits()] == [1]
    whole = (grower.root / "one/00000.tar").read_bytes()
    at = whole.index(b"a dog")
    grower.put(f"{grower.prefix}one/00000.tar", whole[:at] + b"a fox" + whole[at + 5 :])
    shutil.move(grower.root / "cache", grower.root / "evicted")
    with pytest.raises(DataError, match="altered in the store, has SHA-256"):
        list(source.samples("train", 0, 1))


def test_what_the_producer_got_wrong_names_the_batch(grower):
    grower.put(f"{grower.prefix}bad/00000.tar", content := b"not a tar at all" * 64)
    facts = {"name": "00000.tar", "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    grower.put(f"{grower.prefix}bad/manifest.json", json.dumps({"batch": "bad", "files": [facts]}).encode())
    grower.accept()
    with pytest.raises(DataError, match=r"batch bad, s3://.*has no tar header.*batches reject mine bad"):
        grower.ingest(grower.config(True))


def test_splits_and_batches_that_do_not_go_together(grower):
    with pytest.raises(DataError, match=r"lives on deliveries under .*none was accepted yet; deliver one: clipfoundry"):
        grower.ingest(grower.config(True))
    grower.deliver("one", pair("0", "a dog", 1))
    with pytest.raises(DataError, match="none was accepted yet"):
        grower.ingest(grower.config(True))
    grower.accept(split="test")
    with pytest.raises(DataError, match="batch one of mine was accepted for split test, which takes no deliveries"):
        grower.ingest(grower.config(True))
    grower.path.unlink()
    grower.accept()
    with pytest.raises(DataError, match="is in shards of split train, and delivered"):
        grower.ingest(grower.config(True, f"s3://clipfoundry/{grower.prefix}one/*.tar"))


def test_labelled_pictures_can_be_delivered_too(grower):
    base = make_tar(grower.root / "base.tar", pair("0000", "a dog", 1))
    (grower.root / "names.txt").write_text("dog\ncat\n")
    grower.deliver("one", [("a.jpg", picture(9)), ("a.cls", "1")])
    grower.accept(split="labelled")
    splits = {
        "train": {"role": "train", "shards": str(base)},
        "labelled": {"role": "zero_shot", "deliveries": grower.prefix, "classes": str(grower.root / "names.txt")},
    }
    raw = grower.ingest(grower.config(True, **splits))
    assert keys(raw) == [("train", "0000"), ("labelled", "one-00000-a")]


@pytest.mark.slow
def test_the_stage_reads_the_file_beside_params(grower, monkeypatch, object_store):
    monkeypatch.chdir(grower.root)
    grower.deliver("one", pair("0", "a dog", 1))
    grower.accept()
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    validation = params["datasets"]["emoji"]["validation"]
    source = grower.config(True).model_dump(mode="json")
    params["datasets"] = {"mine": {"samples_per_shard": 10, "source": source, "validation": validation}}
    params["store"], params["machine"]["workers"] = object_store.config.model_dump(mode="json"), 0
    (grower.root / "params.yaml").write_text(yaml.safe_dump(params))
    keys_folder = grower.root / ".store"
    shutil.copytree(object_store.keys, keys_folder, ignore=lambda _, names: set(names) - {"credentials.json"})
    assert main(["ingest", "--name", "mine"]) == 0
    assert keys(grower.root / "data/raw/mine") == [("train", "one-00000-0")]
