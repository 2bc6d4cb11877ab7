"""The cache of shards against real servers, over a network that breaks, with processes that die."""

import errno
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from assets import shard_cache, shard_download
from assets.config import SECTIONS
from assets.errors import ConfigError, DataError, StoreError
from assets.shard_cache import ShardCache, evicted, load_shard_cache
from assets.shard_download import split_url

REPOSITORY = Path(__file__).resolve().parents[2]
MIB = 1 << 20
FETCH = """
import sys
from pathlib import Path
from assets.shard_cache import ShardCache
from assets.store import StoreConfig
cache = ShardCache(Path(sys.argv[1]), 1 << 30, StoreConfig.model_validate_json(sys.argv[2]), Path(sys.argv[3]))
print(cache.path(sys.argv[4]), flush=True)
"""


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(shard_download, "_PAUSES", (0.0, 0.0))
    monkeypatch.setattr(shard_cache, "_SECONDS_BETWEEN_LOOKS", 0.01)


@pytest.fixture
def through(object_store, network):
    """The store's config with the network's port in it."""
    return object_store.config.model_copy(update={"endpoint": f"http://127.0.0.1:{network.port}"})


@pytest.fixture
def cache(object_store, through, tmp_path) -> ShardCache:
    return ShardCache(tmp_path / "cache", 64 * MIB, through, object_store.keys)


def copies(cache: ShardCache) -> list[Path]:
    return sorted(path for path in cache.folder.iterdir() if path.is_file())


def eventually(condition) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def waiting(cache: ShardCache, url: str) -> int:
    """How many processes and threads wait for the lock of a shard."""
    lock = (cache.folder / ".locks" / cache._target(url).name).stat().st_ino
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return sum("->" in line and line[-3].endswith(f":{lock}") for line in lines)


def spawn(cache: ShardCache, config, keys: Path, url: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FETCH, str(cache.folder), config.model_dump_json(), str(keys), url]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("part_size", [0, 5 * MIB], ids=["one piece", "multipart"])
def test_a_shard_is_downloaded_once_and_byte_for_byte(object_store, cache, network, part_size):
    content = os.urandom(11 * MIB + 7)
    url = object_store.put("train/once.tar", content, part_size)
    path = cache.path(url)
    assert path.read_bytes() == content
    assert path.name.endswith("-train_once.tar")
    assert cache.path(url) == path and len(network.gets) == 1
    assert copies(cache) == [path]


def test_the_same_key_on_another_endpoint_is_another_shard(object_store, cache, tmp_path):
    url = object_store.put("train/where.tar", b"x")
    other = ShardCache(cache.folder, MIB, object_store.config, object_store.keys)
    assert cache.path(url) != other.path(url)


@pytest.mark.slow
def test_two_processes_that_want_one_shard_download_it_once(object_store, cache, network, through):
    content = os.urandom(4 * MIB)
    url = object_store.put("train/both.tar", content)
    network.hold_after = MIB
    ours = [spawn(cache, through, object_store.keys, url) for _ in range(2)]
    assert network.held.wait(60)
    third = threading.Thread(target=cache.path, args=(url,))
    third.start()
    eventually(lambda: waiting(cache, url) == 2)
    network.release.set()
    paths = {process.communicate(timeout=60)[0].strip() for process in ours}
    third.join(60)
    assert paths == {str(cache.path(url))}
    assert Path(paths.pop()).read_bytes() == content
    assert len(network.gets) == 1


@pytest.mark.slow
def test_a_killed_download_leaves_nothing_that_looks_finished(object_store, cache, network, through):
    content = os.urandom(4 * MIB)
    url = object_store.put("train/killed.tar", content)
    network.hold_after = MIB
    process = spawn(cache, through, object_store.keys, url)
    assert network.held.wait(60)
    eventually(lambda: any(path.stat().st_size for path in copies(cache)))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [path.suffix for path in copies(cache)] == [".partial"]
    network.release.set()
    network.hold_after = None
    path = cache.path(url)
    assert path.read_bytes() == content
    assert copies(cache) == [path]


def test_what_a_killed_download_left_makes_room_for_others(object_store, cache):
    cache.path(object_store.put("train/first.tar", b"x"))
    dead = cache.folder / "0123456789abcdef-dead.tar.partial"
    with dead.open("wb") as stream:
        stream.truncate(60 * MIB)
    cache.path(object_store.put("train/large.tar", bytes(10 * MIB)))
    assert not dead.exists()


def test_the_shard_opened_longest_ago_is_evicted_and_its_readers_read_on(object_store, cache):
    cache.limit_bytes = 3 * MIB
    contents = [os.urandom(MIB) for _ in range(4)]
    urls = [object_store.put(f"train/lru-{number}.tar", content) for number, content in enumerate(contents)]
    first = cache.open(urls[0])
    paths = [cache.path(url) for url in urls[:3]]
    os.close(cache.open(urls[0]))
    second = os.open(paths[1], os.O_RDONLY)
    last = cache.path(urls[3])
    assert copies(cache) == sorted([paths[0], paths[2], last])
    assert evicted(second) and not evicted(first)
    assert os.pread(second, MIB, 0) == contents[1]
    assert cache.path(urls[1]).read_bytes() == contents[1]
    os.close(first), os.close(second)


def test_a_shard_being_downloaded_is_not_evicted_but_waited_for(object_store, cache, network):
    cache.limit_bytes = 5 * MIB
    slow, quick = (
        object_store.put("train/slow.tar", bytes(4 * MIB)),
        object_store.put("train/quick.tar", bytes(MIB * 2)),
    )
    network.hold_after = MIB
    threads = [threading.Thread(target=cache.path, args=(url,)) for url in (slow, quick)]
    threads[0].start()
    assert network.held.wait(60)
    threads[1].start()
    eventually(lambda: len(network.gets) == 2)
    assert sum(path.stat().st_size for path in copies(cache)) == 4 * MIB
    network.release.set()
    for thread in threads:
        thread.join(60)
    assert copies(cache) == [cache.path(quick)]


def test_a_shard_larger_than_the_cache_names_the_setting(object_store, cache):
    cache.limit_bytes = MIB
    with pytest.raises(
        ConfigError, match=r"large-one.tar is larger than the cache.*got 0.01, .*machine.shard_cache_gib"
    ):
        cache.path(object_store.put("train/large-one.tar", bytes(6 * MIB)))
    assert copies(cache) == []


def test_a_broken_connection_is_tried_again(object_store, cache, network):
    content = os.urandom(2 * MIB)
    url = object_store.put("train/broken.tar", content)
    network.cuts = [MIB, 200]
    assert cache.path(url).read_bytes() == content
    assert len(network.gets) >= 3


def test_a_connection_that_keeps_breaking_is_an_error_and_leaves_nothing(object_store, cache, network):
    url = object_store.put("train/hopeless.tar", bytes(2 * MIB))
    network.cuts = [MIB] * 3
    with pytest.raises(StoreError, match="no answer from the store at http"):
        cache.path(url)
    assert copies(cache) == []


def test_other_bytes_than_the_checksum_says_are_refused(object_store, cache, monkeypatch):
    url = object_store.put("train/flipped.tar", bytes(MIB))
    monkeypatch.setattr(shard_download, "_plain_md5", lambda response: "0" * 32)
    with pytest.raises(StoreError, match=r"flipped.tar arrives damaged from http.*, 3 times: the MD5 .* check the net"):
        cache.path(url)
    assert copies(cache) == []


def test_the_etag_of_an_encrypted_or_multipart_object_is_no_checksum():
    class Answer:
        def __init__(self, **headers):
            self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    etag, encryption = '"' + "0a" * 16 + '"', "x-amz-server-side-encryption"
    assert shard_download._plain_md5(Answer(ETag=etag)) == "0a" * 16
    assert shard_download._plain_md5(Answer(ETag=etag, **{encryption: "AES256"})) == "0a" * 16
    assert shard_download._plain_md5(Answer(ETag=etag, **{encryption: "aws:kms"})) is None
    assert shard_download._plain_md5(Answer(ETag=etag[:-1] + '-3"')) is None


def test_an_object_smaller_than_the_index_says_is_refused_until_it_is_mended(object_store, cache):
    content = os.urandom(5000)
    url = object_store.put("train/short.tar", content[:4000])
    with pytest.raises(
        DataError, match=r"short.tar is smaller than the index says, got 4000, .*at least 5000 bytes.*upload"
    ):
        cache.open(url, at_least=5000)
    object_store.put("train/short.tar", content)
    os.close(cache.open(url, at_least=5000))
    assert cache.path(url).read_bytes() == content


def test_a_missing_key_and_a_missing_bucket_are_told_apart(object_store, cache, network):
    with pytest.raises(DataError, match=r"shard s3://clipfoundry/train/none.tar is not in the store at http.*upload"):
        cache.path("s3://clipfoundry/train/none.tar")
    assert len(network.gets) == 1, "nothing is gained by asking again"
    with pytest.raises(DataError, match=r"s3://no-such-bucket/a.tar: the store at .* has no bucket 'no-such-bucket'"):
        cache.path("s3://no-such-bucket/a.tar")
    assert copies(cache) == []


def test_missing_credentials_name_the_variables(object_store, tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    external = object_store.config.model_copy(update={"server": "external"})
    with pytest.raises(StoreError, match=r"AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment"):
        ShardCache(tmp_path, MIB, external, tmp_path).path("s3://clipfoundry/a.tar")


@pytest.mark.parametrize("url", ["s3://bucket", "s3:///key", "s3://bucket/", "https://host/key"])
def test_a_malformed_url_is_refused(url):
    with pytest.raises(DataError, match=r"wanted s3://BUCKET/KEY"):
        split_url(url)


def test_a_full_disk_says_how_much_was_wanted_and_which_setting_to_lower(object_store, cache, monkeypatch):
    url = object_store.put("train/full.tar", bytes(30 * MIB))
    sentence = r"the disk of .* is full.*0.03 GiB for the next shard.*machine.shard_cache_gib"
    with monkeypatch.context() as patch:
        facts = os.statvfs(cache.folder.parent)
        patch.setattr(os, "statvfs", lambda _: os.statvfs_result((*facts[:4], 0, *facts[5:10])))
        with pytest.raises(StoreError, match=sentence):
            cache.path(url)
    with monkeypatch.context() as patch:

        def full(_):
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(shard_download.os, "fsync", full)
        with pytest.raises(StoreError, match=sentence):
            cache.path(url)
    assert copies(cache) == []
    assert cache.path(url).stat().st_size == 30 * MIB


def test_a_prefetch_brings_what_is_missing_and_keeps_what_it_was_told_of(object_store, cache, network):
    cache.limit_bytes = 4 * MIB
    urls = [object_store.put(f"train/ahead-{number}.tar", bytes(MIB)) for number in range(6)]
    old = [cache.path(url) for url in urls[:2]]
    cache.prefetch(urls[1:5])
    targets = [cache._target(url) for url in urls]
    eventually(lambda: all(target.exists() for target in targets[1:5]))
    assert not old[0].exists()
    cache.prefetch(urls[1:6])  # five do not fit: the last one has to wait until it is opened
    cache.prefetch(urls[1:6])
    eventually(lambda: len(network.gets) == 6)
    eventually(lambda: "shard-prefetch" not in {thread.name for thread in threading.enumerate()})
    assert [target.exists() for target in targets] == [False, True, True, True, True, False]
    cache.path(urls[5])
    assert not targets[1].exists()


def test_a_prefetch_that_fails_leaves_the_error_to_the_opening(object_store, cache):
    urls = ["s3://clipfoundry/train/gone.tar", object_store.put("train/after-gone.tar", b"x")]
    cache.prefetch(urls)
    eventually(cache._target(urls[1]).exists)
    with pytest.raises(DataError, match=r"gone.tar is not in the store"):
        cache.open(urls[0])


def test_a_forked_process_gets_connections_of_its_own_and_no_lock_of_its_parent(object_store, cache, network):
    first, second = (object_store.put(f"train/fork-{number}.tar", bytes(2 * MIB)) for number in range(2))
    network.hold_after = MIB
    cache.prefetch([first])
    assert network.held.wait(60)
    network.hold_after = None
    (answer, answer_end), (leave, leave_end) = os.pipe(), os.pipe()
    child = os.fork()  # while the thread holds the shard's lock and a connection
    if child == 0:
        signal.alarm(60)
        os.close(leave_end)
        alone = not cache._here().stores
        os.write(answer_end, os.read(cache.open(second), 1) if alone else b"!")
        os.read(leave, 1)
        os._exit(0)
    assert os.read(answer, 1) == b"\0"
    network.release.set()
    eventually(cache._target(first).exists)
    with cache._lock(cache._target(first).name):
        pass  # the child has inherited the descriptor and lives, but does not keep the lock
    os.close(leave_end)
    assert os.waitpid(child, 0)[1] == 0
    for descriptor in (answer, answer_end, leave):
        os.close(descriptor)


def test_a_cache_travels_to_a_spawned_worker(object_store, cache):
    url = object_store.put("train/spawned.tar", b"x")
    path = cache.path(url)
    other = pickle.loads(pickle.dumps(cache))
    assert other.path(url) == path and other.limit_bytes == cache.limit_bytes


def test_params_say_how_large_the_cache_is(tmp_path):
    sections = (name for name in SECTIONS if name not in ("machine", "store"))
    (tmp_path / "params.yaml").write_text(
        "".join(f"{name}: {{}}\n" for name in sections)
        + "machine: {workers: 0, threads: 0, device: cpu, tensorboard: false, shard_cache_gib: 1.5}\n"
        + "store: {server: seaweedfs, endpoint: 'http://127.0.0.1:9300', bucket: clipfoundry, region: us-east-1}\n"
    )
    cache = load_shard_cache(tmp_path / "params.yaml")
    assert cache.limit_bytes == 3 << 29
    assert cache.folder == Path("work/shards")
