"""Batches in a real store: sent, cut off, found whole or not, and handled from the command line."""

import argparse
import hashlib
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from assets.deliveries import upload
from assets.deliveries.batches import Batches, Rejected, accept, read_batches
from assets.deliveries.commands import add_arguments
from assets.deliveries.look import look
from assets.deliveries.upload import deliver
from assets.errors import ConfigError, DataError
from tests.assets.sources.test_webdataset import make_tar, pair

REPOSITORY = Path(__file__).resolve().parents[3]
NONE = Batches(dataset="mine")
# dies when the third tar has been read and not been sent
DIES = """
import os, signal, sys
from pathlib import Path
from assets.deliveries.upload import deliver
from assets.store import StoreConfig, open_store

class Dies:
    calls = 0
    def advance(self, units):
        self.calls += 1
        if self.calls == 3:
            os.kill(os.getpid(), signal.SIGKILL)

store = open_store(StoreConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2]))
deliver(store, sys.argv[3], "one", sorted(Path(sys.argv[4]).glob("*.tar")), lambda total: Dies())
"""


@pytest.fixture
def prefix(request) -> str:
    """A prefix of the test's own."""
    return f"incoming/{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:10]}/"


@pytest.fixture
def tars(tmp_path) -> list[Path]:
    return [make_tar(tmp_path / "new" / f"0000{i}.tar", pair(f"000{i}", f"a dog {i}", i + 1)) for i in range(4)]


def names(store, prefix: str) -> list[str]:
    return [item.name.removeprefix(prefix) for item in store.list_objects(prefix)]


def manifest(batch: str, *files: tuple[str, bytes], **changes) -> bytes:
    listed = [
        {"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), **changes}
        for name, content in files
    ]
    return json.dumps({"batch": batch, "files": listed, "pairs": None}).encode()


def test_a_delivered_batch_is_found_whole(object_store, prefix, tars):
    done = deliver(object_store.store, prefix, "one", tars)
    assert done.sent == tuple(path.name for path in tars) and done.kept == () and done.pairs == 4
    found = look(object_store.store, prefix, NONE)
    assert found.incomplete == [] and [batch.name for batch in found.complete] == ["one"]
    batch = found.complete[0]
    assert [(shard.url, shard.bytes, shard.sha256) for shard in batch.shards] == [
        (
            f"s3://clipfoundry/{prefix}one/{path.name}",
            path.stat().st_size,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in tars
    ]
    assert batch.pairs == 4 and batch.unlisted == ()


def test_half_a_batch_is_never_taken_and_an_upload_that_was_killed_goes_on(object_store, prefix, tars):
    command = [sys.executable, "-c", DIES, object_store.config.model_dump_json(), str(object_store.keys), prefix]
    killed = subprocess.run([*command, str(tars[0].parent)], cwd=REPOSITORY, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert names(object_store.store, prefix) == ["one/00000.tar", "one/00001.tar"]
    half = look(object_store.store, prefix, NONE)
    assert half.complete == [] and half.incomplete == [("one", "no manifest.json yet")]

    done = deliver(object_store.store, prefix, "one", tars)
    assert done.kept == ("00000.tar", "00001.tar") and done.sent == ("00002.tar", "00003.tar")
    assert len(look(object_store.store, prefix, NONE).complete[0].shards) == 4


def test_a_tar_that_differs_from_the_one_that_is_there_is_sent_again(object_store, prefix, tars):
    first = bytearray(tars[0].read_bytes())
    first[600] ^= 1
    object_store.put(f"{prefix}one/00000.tar", bytes(first))
    object_store.put(f"{prefix}one/00001.tar", tars[1].read_bytes()[:-512])
    assert deliver(object_store.store, prefix, "one", tars).kept == ()


def test_a_tar_sent_in_pieces_is_known_again(object_store, prefix, tmp_path, monkeypatch):
    monkeypatch.setattr(upload, "_PIECE", 5 << 20)
    big = make_tar(tmp_path / "00000.tar", [*pair("0", "a dog"), ("0.bin", bytes(11 << 20))])
    shown = []

    class Shown:
        def advance(self, units: int) -> None:
            shown.append(units)

        def __exit__(self, *_: object) -> None:
            shown.append(None)

    def progress(total: int):
        shown.append(total)
        return Shown()

    deliver(object_store.store, prefix, "one", [big], progress)
    assert shown[0] == sum(shown[1:-1]) == 12 and len(shown) > 4 and shown[-1] is None
    object_store.store.client.remove_object("clipfoundry", f"{prefix}one/manifest.json")
    assert deliver(object_store.store, prefix, "one", [big]).kept == ("00000.tar",)


def test_what_cannot_be_a_batch_is_refused_before_anything_is_sent(object_store, prefix, tars, tmp_path):
    store = object_store.store
    damaged = tmp_path / "damaged.tar"
    damaged.write_bytes(tars[0].read_bytes()[:700])
    with pytest.raises(DataError, match="ends inside the member"):
        deliver(store, prefix, "one", [*tars, damaged])
    lone = make_tar(tmp_path / "lone.tar", [("a.txt", "a dog"), ("b.jpg", b"no caption")])
    with pytest.raises(DataError, match=r"lone\.tar holds no pair"):
        deliver(store, prefix, "one", [*tars, lone])
    for batch, files, fault in (("a.b", tars, "'a.b' cannot be delivered"), ("one", [tars[0]] * 2, "have one name")):
        with pytest.raises(ConfigError, match=fault):
            deliver(store, prefix, batch, files)
    with pytest.raises(DataError, match="nothing to deliver as batch one"):
        deliver(store, prefix, "one", [])
    assert names(store, prefix) == []


def test_a_name_is_used_once(object_store, prefix, tars):
    deliver(object_store.store, prefix, "one", tars[:1])
    with pytest.raises(DataError, match="is there already; deliver under another name"):
        deliver(object_store.store, prefix, "one", tars[:1])
    object_store.put(f"{prefix}two/99.tar", b"of others")
    with pytest.raises(DataError, match=r"two holds other files: 99\.tar"):
        deliver(object_store.store, prefix, "two", tars)


def test_why_a_batch_is_not_whole(object_store, prefix):
    put = object_store.put
    put(f"{prefix}short/0.tar", b"abc")
    put(f"{prefix}short/manifest.json", manifest("short", ("0.tar", b"abcd")))
    put(f"{prefix}missing/0.tar", b"abcd")
    put(f"{prefix}missing/manifest.json", manifest("missing", ("0.tar", b"abcd"), ("1.tar", b"x")))
    put(f"{prefix}other/0.tar", b"abcd")
    put(f"{prefix}other/manifest.json", manifest("other", ("0.tar", b"abcd"), md5="ab" * 16))
    put(f"{prefix}outside/manifest.json", manifest("outside", ("../short/0.tar", b"abc")))
    put(f"{prefix}garbled/manifest.json", b"\xff{")
    put(f"{prefix}a.b/manifest.json", manifest("a.b", ("0.tar", b"abcd")))
    put(f"{prefix}loose.tar", b"abcd")
    put(f"{prefix}whole/0.tar", b"abcd")
    put(f"{prefix}whole/notes.txt", b"hello")
    md5 = hashlib.md5(b"abcd").hexdigest()
    put(f"{prefix}whole/manifest.json", manifest("whole", ("0.tar", b"abcd"), md5=md5))
    found = look(object_store.store, prefix, NONE)
    assert [(batch.name, batch.unlisted) for batch in found.complete] == [("whole", ("notes.txt",))]
    reasons = dict(found.incomplete)
    assert reasons.pop("outside").startswith("its manifest lists a file '../short/0.tar'")
    assert reasons.pop("garbled").startswith("its manifest is wrong: Invalid JSON")
    assert reasons.pop("a.b").startswith("its name is unfit")
    assert reasons == {
        "short": "0.tar has 3 bytes, the manifest says 4",
        "missing": "1 of 2 files are missing, the first is 1.tar",
        "other": "0.tar has another MD5 than the manifest says",
        "loose.tar": "lies beside the batches, not in the folder of one",
    }


def test_settled_batches_are_left_alone_until_they_change(object_store, prefix, tars, tmp_path, network):
    store = object_store.store
    path = tmp_path / "mine.json"
    for batch in ("one", "two", "three", "four"):
        deliver(store, prefix, batch, tars[:2])
    accept(path, "mine", "train", look(store, prefix, NONE).complete[:3])
    known = read_batches(path)
    known = known.model_copy(update={"rejected": (Rejected(batch=known.accepted[0].batch, split=None, reason="-"),)})
    known = known.model_copy(update={"accepted": known.accepted[1:]})
    assert [entry.batch for entry in known.accepted] == ["one", "three"]

    through = object_store.config.model_copy(update={"endpoint": f"http://127.0.0.1:{network.port}"})
    cheap = type(store)(through, store.credentials)
    found = look(cheap, prefix, known)
    assert [batch.name for batch in found.complete] == ["two"] and found.incomplete == []
    assert len([get for get in network.gets if "manifest.json" in get]) == 1

    object_store.put(f"{prefix}one/manifest.json", manifest("one", ("00000.tar", tars[0].read_bytes())))
    object_store.put(f"{prefix}three/00001.tar", b"short")
    changed = dict(look(store, prefix, known).incomplete)
    assert changed["one"] == "changed after it was accepted: manifest.json is another one"
    assert changed["three"].startswith("changed after it was accepted: 00001.tar has 5 bytes")
    store.client.remove_object("clipfoundry", f"{prefix}one/manifest.json")
    assert dict(look(store, prefix, known).incomplete)["one"].endswith("manifest.json is gone")

    deliver(store, f"{prefix}elsewhere/", "one", tars)
    reason = dict(look(store, f"{prefix}elsewhere/", known).incomplete)["one"]
    assert reason.startswith("a batch of this name was accepted from")


@pytest.fixture
def project(tmp_path, monkeypatch, object_store, prefix):
    """A folder with a params.yaml whose data set takes deliveries; returns what runs a command in it."""
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    source = {"kind": "webdataset", "licence": "CC0", "splits": {"train": {"role": "train", "deliveries": prefix}}}
    params["datasets"] = {"mine": {"source": source}, "fixed": {"source": {"kind": "emoji_scenes"}}}
    params["store"] = object_store.config.model_dump(mode="json")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    shutil.copytree(object_store.keys, tmp_path / ".store", ignore=lambda _, names: set(names) - {"credentials.json"})
    monkeypatch.chdir(tmp_path)

    def command(*words: str) -> None:
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        options = parser.parse_args(words)
        options.operation(options)

    return command


def test_the_commands_from_delivery_to_rejection(project, capsys, tars, object_store, prefix):
    project("deliver", "mine", "new", "--batch", "one")
    project("deliver", "mine", "new")
    object_store.put(f"{prefix}half/00000.tar", b"abc")
    assert "batch one is delivered: 4 pairs, 4 tars sent, 0 there" in capsys.readouterr().out
    project("accept", "mine")
    assert capsys.readouterr().out == "accepted new, one; commit batches/mine.json\n"
    project("accept", "mine")
    assert capsys.readouterr().out == "no whole batch of mine waits\n"
    project("reject", "mine", "new", "--reason", "blurred")
    project("reject", "mine", "half", "--reason", "abandoned")
    project("deliver", "mine", "new", "--batch", "next")
    capsys.readouterr()
    project("list", "mine")
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "accepted one train, 4 tars",
        "rejected new blurred",
        "rejected half abandoned",
        "waiting next train, 4 tars, 4 pairs",
    ]


def test_mistakes_on_the_command_line(project, tars, tmp_path):
    with pytest.raises(ConfigError, match="no split of data set fixed takes deliveries; add one"):
        project("list", "fixed")
    with pytest.raises(ConfigError, match=r"unknown data set 'mien'.*did you mean 'mine'"):
        project("accept", "mien")
    with pytest.raises(DataError, match=r"holds no \.tar file"):
        project("deliver", "mine", ".store")
    with pytest.raises(ConfigError, match="unknown split of mine that takes deliveries 'test'"):
        project("deliver", "mine", "new", "--split", "test")
    project("deliver", "mine", "new", "--batch", "one")
    with pytest.raises(ConfigError, match=r"unknown batch of mine 'oen'.*did you mean 'one'"):
        project("reject", "mine", "oen", "--reason", "-")
    assert not (tmp_path / "batches/mine.json").exists()
