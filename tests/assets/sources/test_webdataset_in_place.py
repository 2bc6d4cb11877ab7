"""Tars of others that are indexed where they lie: on this disk, and in a real object store."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from assets.__main__ import main
from assets.errors import ConfigError, DataError
from assets.index import NO_CLASS, content_hash, read_index
from assets.ingest import ingest
from assets.manifest import file_digest, read_manifest
from assets.members import read_member
from assets.shard_cache import ShardCache
from assets.shard_tasks import plan
from assets.sources.base import Means, open_source
from assets.validation.decisions import shards_in_order
from assets.validation.scan import check_files, scan_shard
from tests.assets.sources.test_webdataset import make_config, make_tar, pair, picture

STAYS = ("shard", "offset", "size", "image_offset", "metadata_offset", "metadata_size")


def run(config, root: Path, name: str, workers: int = 0, cache: ShardCache | None = None) -> Path:
    out = root / "data" / "raw" / name
    ingest(name, config, config.model_dump(mode="json"), 2, out, root / "work", workers, Means(cache))
    return out


@pytest.fixture
def tars(tmp_path, monkeypatch):
    """A train split of two tars, in one of which members stand out of order, and a labelled split."""
    monkeypatch.chdir(tmp_path)
    extra = json.dumps({"captions": {"en": "a cat", "de": "eine Katze"}, "class_id": "no number"})
    scattered = [("0001.txt", "a cat"), ("0001.json", extra), *pair("0002", "two dogs", 3), ("0001.jpg", picture(2))]
    make_tar(tmp_path / "external/00000.tar", pair("0000", "a dog", 1) + scattered)
    make_tar(tmp_path / "external/00001.tar", [*pair("0003", "a hen", 4), ("0004.txt", "no picture")])
    make_tar(tmp_path / "external/labelled.tar", [("a.jpg", picture(9)), ("a.cls", "1")])
    (tmp_path / "names.txt").write_text("dog\ncat\n")
    return tmp_path


def both(tars: Path, pattern: str = "external/0000{0..1}.tar", **changes):
    zero_shot = {"shards": "external/labelled.tar", "role": "zero_shot", "classes": "names.txt"}
    return make_config(pattern, zero_shot=zero_shot, **changes)


def test_an_index_in_place_tells_what_a_copy_would(tars):
    here, copy = run(both(tars, in_place=True), tars, "here"), run(both(tars), tars, "copy")
    ours, theirs = read_index(here).to_pylist(), read_index(copy).to_pylist()
    assert [row["shard"] for row in ours] == ["../../../external/00000.tar"] * 3 + [
        "../../../external/00001.tar",
        "../../../external/00001.tar",
        "../../../external/labelled.tar",
    ]
    assert [{name: row[name] for name in row if name not in STAYS} for row in ours] == [
        {name: row[name] for name in row if name not in STAYS} for row in theirs
    ]
    assert [row["class_id"] for row in ours] == [NO_CLASS] * 5 + [1]
    for row in ours:
        image = read_member(here, row["shard"], row["image_offset"], row["image_size"])
        assert content_hash(image) == row["image_hash"]
        assert row["offset"] + 512 <= row["image_offset"] <= row["offset"] + row["size"]
    metadata = read_member(here, ours[1]["shard"], ours[1]["metadata_offset"], ours[1]["metadata_size"])
    assert json.loads(metadata)["captions"]["de"] == "eine Katze"
    assert (here / "dataset.json").read_text() == (copy / "dataset.json").read_text().replace('"copy"', '"here"')


def test_nothing_is_copied_and_the_manifest_names_what_stays_outside(tars):
    here = run(both(tars, in_place=True), tars, "here")
    assert sorted(path.name for path in here.rglob("*") if path.is_file()) == [
        "README.md",
        "dataset.json",
        "index.parquet",
        "manifest.json",
        "sample_sheet.jpg",
    ]
    external = read_manifest(here)["external"]
    assert list(external) == [f"../../../external/{name}.tar" for name in ("00000", "00001", "labelled")]
    for name, facts in external.items():
        path = tars / "external" / Path(name).name
        assert facts == {"sha256": file_digest(path), "bytes": path.stat().st_size}
    card = (here / "README.md").read_text()
    assert "In 3 tars outside this folder" in card and "`../../../external/00000.tar`" in card


def test_paths_from_the_root_stay_as_they_are(tars):
    here = run(make_config(tars / "external/00000.tar", in_place=True), tars, "here")
    assert set(read_index(here)["shard"].to_pylist()) == {str(tars / "external/00000.tar")}
    check_files(here)


def test_every_tar_is_a_task_of_its_own_and_worker_processes_find_the_same(tars):
    config = both(tars, in_place=True)
    tasks = plan(open_source(config).splits(), 2)
    assert [(task.split, task.start, task.stop, task.in_place) for task in tasks] == [
        ("train", 0, 3, True),
        ("train", 3, 5, True),
        ("zero_shot", 0, 1, True),
    ]
    alone, together = run(config, tars, "alone"), run(config, tars, "alone2", workers=2)
    assert (alone / "index.parquet").read_bytes() == (together / "index.parquet").read_bytes()


def test_validation_reads_the_tars_and_refuses_changed_or_missing_ones(tars):
    here = run(both(tars, in_place=True), tars, "here")
    shards = shards_in_order(here, check_files(here))
    assert list(shards.values()) == [3, 2, 1]
    path = tars / "external/00001.tar"
    content = path.read_bytes()
    path.write_bytes(content[:700] + b"X" + content[701:])
    check_files(here)
    with pytest.raises(DataError, match=r"external/00001\.tar is damaged: another checksum"):
        from assets.validation.scan import ScanTask

        name = "../../../external/00001.tar"
        scan_shard(ScanTask(here, name, read_manifest(here)["external"][name]["sha256"], tars / "marker", True))
    path.write_bytes(content + bytes(512))
    with pytest.raises(DataError, match=r"00001\.tar has \d+ bytes, manifest says"):
        check_files(here)
    path.unlink()
    with pytest.raises(DataError, match=r"00001\.tar is missing"):
        check_files(here)


@pytest.fixture
def stored(tars, object_store):
    """The tars in the store instead, and the keys for it in this folder; returns a cache for them."""
    for path in sorted((tars / "external").iterdir()):
        object_store.put(f"mine/{path.name}", path.read_bytes())
    shutil.rmtree(tars / "external")
    shutil.copytree(object_store.keys, tars / ".store", ignore=lambda _, names: set(names) - {"credentials.json"})
    return ShardCache(tars / "cache", 1 << 20, object_store.config, tars / ".store")


@pytest.mark.parametrize("pattern", ["0000{0..1}.tar", "0*.tar"])
def test_tars_in_the_store_are_indexed_by_their_urls(tars, stored, pattern):
    here = run(make_config(f"s3://clipfoundry/mine/{pattern}", in_place=True), tars, "far", cache=stored)
    rows = read_index(here).to_pylist()
    assert [row["shard"].rpartition("/")[2] for row in rows] == ["00000.tar"] * 3 + ["00001.tar"] * 2
    assert list(read_manifest(here)["external"]) == [f"s3://clipfoundry/mine/0000{number}.tar" for number in (0, 1)]
    check_files(here)
    shutil.rmtree(tars / "cache")  # single members come straight from the store
    for row in rows:
        image = read_member(here, row["shard"], row["image_offset"], row["image_size"], stored)
        assert content_hash(image) == row["image_hash"]
    assert not (tars / "cache").exists()


def test_what_the_store_lacks_is_named_before_any_work(tars, stored):
    with pytest.raises(DataError, match=r"1 of 3 shards of split train are missing, .*mine/00002\.tar"):
        run(make_config("s3://clipfoundry/mine/0000{0..2}.tar", in_place=True), tars, "far", cache=stored)
    with pytest.raises(DataError, match=r"no shard of split train matches.*s3://clipfoundry/nowhere"):
        run(make_config("s3://clipfoundry/nowhere/*.tar", in_place=True), tars, "far", cache=stored)
    with pytest.raises(DataError, match="has no bucket 'of-others'"):
        run(make_config("s3://of-others/{0..1}.tar", in_place=True), tars, "far", cache=stored)
    with pytest.raises(ConfigError, match="no store is configured"):
        run(make_config("s3://clipfoundry/mine/*.tar", in_place=True), tars, "far")


@pytest.mark.slow
def test_the_stages_ingest_and_validate_stored_tars(tars, stored, object_store):
    params = yaml.safe_load(Path(__file__).parents[3].joinpath("params.yaml").read_text())
    validation = params["datasets"]["emoji"]["validation"]
    validation["image"]["min_side"], validation["limits"]["max_rejected_train"] = 8, 1.0
    validation["limits"]["warn_rejected_train"], validation["image"]["min_contrast"] = 1.0, 0.0
    validation["duplicates"] |= {"near": False, "evaluation": False}
    source = make_config("s3://clipfoundry/mine/*[01].tar", in_place=True).model_dump(mode="json")
    params["datasets"] = {"far": {"samples_per_shard": 10, "source": source, "validation": validation}}
    params["store"], params["machine"]["workers"] = object_store.config.model_dump(mode="json"), 2
    (tars / "params.yaml").write_text(yaml.safe_dump(params))
    assert main(["ingest", "--name", "far"]) == 0
    assert main(["validate", "--name", "far"]) == 0
    metrics = json.loads((tars / "data/valid/far/metrics.json").read_text())
    assert metrics["ingested"] == 5 and metrics["rejected_by_reason"]["no_image"] == 1
    assert (tars / "reports/validation/far/rejected.jpg").is_file()
