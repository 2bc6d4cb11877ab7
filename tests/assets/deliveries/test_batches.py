"""What may stand in params.yaml, in a manifest and in batches/D.json, without a store."""

import json
import multiprocessing
from pathlib import Path

import pytest

from assets.deliveries.batches import Batch, Rejected, Shard, accept, read_batches, reject
from assets.deliveries.manifest import ManifestFile, parse_manifest, render_manifest
from assets.deliveries.names import batch_fault, prefix_fault
from assets.deliveries.splits import delivery_splits
from assets.errors import ConfigError, DataError
from assets.section import parse
from assets.sources.webdataset.config import WebDatasetConfig

SUM = "ab" * 32


def batch(name: str, tars: int = 1, manifest: str = SUM) -> Batch:
    shards = tuple(Shard(url=f"s3://b/in/{name}/{i:05d}.tar", bytes=512, sha256=SUM) for i in range(tars))
    return Batch(name, manifest, "cd" * 16, shards)


def names(path: Path) -> list[str]:
    return [entry.batch for entry in read_batches(path).accepted]


def test_batches_stand_in_the_order_of_acceptance_and_only_once(tmp_path):
    path = tmp_path / "batches" / "mine.json"
    assert read_batches(path).accepted == ()
    accept(path, "mine", "train", [batch("b"), batch("a", 2)])
    accept(path, "mine", "train", [batch("0")])
    content = path.read_bytes()
    accept(path, "mine", "train", [batch("a", 2), batch("b")])
    assert names(path) == ["b", "a", "0"] and path.read_bytes() == content
    written = json.loads(content)
    assert written["dataset"] == "mine" and written["rejected"] == []
    assert written["accepted"][1]["shards"][1] == {"url": "s3://b/in/a/00001.tar", "bytes": 512, "sha256": SUM}
    assert written["accepted"][1]["manifest"] == SUM and written["accepted"][1]["split"] == "train"
    assert [file.name for file in path.parent.iterdir()] == ["mine.json"]


def test_a_batch_of_known_name_with_other_content_is_refused_whole(tmp_path):
    path = tmp_path / "mine.json"
    accept(path, "mine", "train", [batch("a")])
    content = path.read_bytes()
    with pytest.raises(DataError, match="a was accepted with other content before; deliver it under another name"):
        accept(path, "mine", "train", [batch("new"), batch("a", manifest="cd" * 32)])
    with pytest.raises(DataError, match="a was accepted with other content"):
        accept(path, "mine", "test", [batch("a")])
    assert path.read_bytes() == content


def test_rejection_takes_out_what_was_accepted_and_bars_the_rest(tmp_path):
    path = tmp_path / "mine.json"
    accept(path, "mine", "train", [batch("a"), batch("b"), batch("c")])
    reject(path, "mine", "b", " wrong language ")
    reject(path, "mine", "never-seen", "of a test machine")
    reject(path, "mine", "b", "again")
    assert names(path) == ["a", "c"]
    assert read_batches(path).rejected == (
        Rejected(batch="b", split="train", reason="wrong language"),
        Rejected(batch="never-seen", split=None, reason="of a test machine"),
    )
    with pytest.raises(DataError, match=r"b was rejected \(wrong language\) before"):
        accept(path, "mine", "train", [batch("b")])
    with pytest.raises(ConfigError, match="without a reason"):
        reject(path, "mine", "a", " ")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{", "not readable as JSON"),
        ('{"dataset": "other"}', "is of another data set, got 'other'"),
        ('{"dataset": "mine", "acepted": []}', "did you mean 'accepted'"),
        ('{"dataset": "mine", "accepted": [{"batch": "a"}]}', "Field required"),
    ],
)
def test_a_damaged_file_is_refused_and_left_as_it_is(tmp_path, content, fault):
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(DataError, match=fault) as caught:
        accept(path, "mine", "train", [batch("a")])
    assert "git checkout" in str(caught.value) and path.read_text() == content


def accept_some(path: Path, first: int) -> None:
    for number in range(first, first + 10):
        accept(path, "mine", "train", [batch(f"n{number}")])


def test_processes_that_accept_at_once_lose_nothing(tmp_path):
    path = tmp_path / "mine.json"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=accept_some, args=(path, first)) for first in (0, 10, 20)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sorted(names(path)) == sorted(f"n{number}" for number in range(30))


def manifest(**changes) -> bytes:
    values = {"batch": "a", "files": [{"name": "00000.tar", "bytes": 512, "sha256": SUM}], "pairs": 1}
    return json.dumps({**values, **changes}).encode()


def test_a_manifest_says_what_was_put_in_and_may_say_more():
    files = [ManifestFile(name=f"0000{i}.tar", bytes=512 + i, sha256=SUM, md5="cd" * 16) for i in range(2)]
    parsed = parse_manifest(render_manifest("a", files, 7), "a")
    assert list(parsed.files) == files and parsed.pairs == 7
    extended = json.loads(manifest()) | {"made by": "a crawler"}
    assert parse_manifest(json.dumps(extended).encode(), "a").files[0].md5 is None


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "wrong: Invalid JSON"),
        (b"\xff\x00", "wrong: Invalid JSON"),
        (b"[]", "is wrong"),
        (manifest(batch="b"), "that of a batch 'b'"),
        (manifest(files=[]), "at files"),
        (manifest(files=[{"name": "00000.tar", "bytes": "512", "sha256": SUM}]), r"at files\.0\.bytes"),
        (manifest(files=[{"name": "00000.tar", "bytes": 512, "sha256": "12"}]), r"at files\.0\.sha256"),
        (
            manifest(files=[{"name": "../b/00000.tar", "bytes": 512, "sha256": SUM}]),
            r"lists a file '\.\./b/00000\.tar'",
        ),
        (manifest(files=[{"name": "manifest.json", "bytes": 512, "sha256": SUM}]), "lists a file 'manifest.json'"),
        (manifest(files=[{"name": "0.tar", "bytes": 512, "sha256": SUM}] * 2), "lists a file twice"),
    ],
)
def test_a_wrong_manifest_is_refused_with_the_reason(content, fault):
    with pytest.raises(DataError, match=fault):
        parse_manifest(content, "a")


def test_prefixes_and_batch_names():
    assert all(prefix_fault(prefix) is None for prefix in ("in/", "incoming/mine/", "a.b/C_d-1/"))
    wrong = ("", "/", "in", "/in/", "in//mine/", "in/../out/", "./", "s3://b/in/", "in mine/")
    assert all(prefix_fault(prefix) for prefix in wrong)
    assert all(batch_fault(name) is None for name in ("a", "2026-11-28T21-00", "x" * 23))
    assert all(batch_fault(name) for name in ("", "x" * 24, "-a", "a.b", "a/b", "\u00fc"))


def section(**prefixes: str) -> dict:
    splits = {name: {"role": "train", "deliveries": prefix} for name, prefix in prefixes.items()}
    return {"source": {"kind": "webdataset", "splits": {**splits, "other": {"shards": "*.tar"}}}}


def test_splits_that_take_deliveries_are_found():
    assert delivery_splits({}) == []
    datasets = {"emoji": {"source": {"kind": "emoji_scenes"}}, "mine": section(train="in/mine/", test="in/mine-test/")}
    assert delivery_splits(datasets) == [("mine", "train", "in/mine/"), ("mine", "test", "in/mine-test/")]


@pytest.mark.parametrize("other", ["in/mine/", "in/", "in/mine/sub/"])
def test_prefixes_that_overlap_are_refused_also_between_data_sets(other):
    with pytest.raises(ConfigError, match=r"deliveries of a\.train .* and b\.train .* take each other's batches"):
        delivery_splits({"a": section(train="in/mine/"), "b": section(train=other)})


def test_a_wrong_prefix_names_its_place():
    with pytest.raises(ConfigError, match=r"datasets\.a\.source\.splits\.train\.deliveries: wanted .*, got '/in/'"):
        delivery_splits({"a": section(train="/in/")})
    for split, fault in (({"deliveries": "in"}, "deliveries: wanted .*, got 'in'"), ({}, "one of them is needed")):
        values = {"kind": "webdataset", "licence": "CC0", "splits": {"train": {"role": "train", **split}}}
        with pytest.raises(ConfigError, match=fault):
            parse(WebDatasetConfig, values, "source")
