"""Reading pairs: local shards, shards in an object store, and as few open files as promised."""

import os
import re
import shutil
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from torch.utils.data import DataLoader, Dataset

from assets.errors import ConfigError, DataError
from assets.index import write_table
from assets.shard_cache import ShardCache
from training.data import shard_files
from training.data.order import SampleOrder
from training.data.pairs import PairReader, check_cache, load_pairs

MIB = 1 << 20


def use_urls(index: Path, prefix: str) -> None:
    """Let an index name its shards by URL."""
    table = pq.read_table(index)
    place = table.schema.get_field_index("shard")
    urls = [prefix + name for name in table.column("shard").to_pylist()]
    write_table(table.set_column(place, table.schema.field(place), [urls]), index)


@pytest.fixture
def stored(toy_data, object_store, tmp_path):
    """The toy data set with its shards in the object store: (pairs without cache, cache)."""
    raw = tmp_path / "raw"
    shutil.copytree(toy_data[0], raw)
    for shard in sorted((raw / "train").iterdir()):
        object_store.put(f"toy/train/{shard.name}", shard.read_bytes())
    shutil.rmtree(raw / "train")
    use_urls(raw / "index.parquet", "s3://clipfoundry/toy/")
    cache = ShardCache(tmp_path / "cache", 64 * MIB, object_store.config, object_store.keys)
    return load_pairs(raw, toy_data[1]), cache


def open_files(folder: Path) -> int:
    """How many descriptors of this process lead into a folder."""
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists the folder
            found += str(descriptor.readlink()).startswith(f"{folder}/")
    return found


def test_pictures_from_an_object_store_are_those_of_the_local_shards(toy_data, stored):
    local, (pairs, cache) = load_pairs(*toy_data), stored
    assert pairs.stored and not local.stored
    here, there = PairReader(local), PairReader(replace(pairs, cache=cache))
    for position in (62, 0, 31, 32, 5):
        assert np.array_equal(here.image(position), there.image(position))
        assert here.read(position) == there.read(position)


def test_a_cache_for_one_shard_only_gives_the_same_pictures(toy_data, stored, monkeypatch):
    monkeypatch.setattr(shard_files, "_SECONDS_BETWEEN_SWEEPS", 0.0)
    local, (pairs, cache) = load_pairs(*toy_data), stored
    cache.limit_bytes = int(pairs.shard_bytes.max()) * 3 // 2
    here, there = PairReader(local), PairReader(replace(pairs, cache=cache))
    for position in (0, 40, 1, 41, 2, 42):
        assert np.array_equal(here.image(position), there.image(position))
        assert len([path for path in cache.folder.iterdir() if path.is_file()]) == 1
        assert open_files(cache.folder) <= 2, "a reader lets go of what has been evicted"


def test_coming_shards_are_fetched_ahead_by_number(stored):
    pairs = replace(stored[0], cache=stored[1])
    order = SampleOrder(len(pairs), 16, 0, pairs.shard_sizes, 1)
    pairs.prefetch(order.shards_ahead(0, 4))
    for thread in threading.enumerate():
        if thread.name == "shard-prefetch":
            thread.join(60)
    assert len([path for path in stored[1].folder.iterdir() if path.suffix == ".tar"]) == 2


class Windowed(Dataset):
    """Item s is the pictures of step s in windowed order."""

    def __init__(self, pairs):
        self.pairs, self.order = pairs, SampleOrder(len(pairs), 16, 0, pairs.shard_sizes, 1)
        self.reader = PairReader(pairs)

    def __getitem__(self, step):
        self.pairs.prefetch(self.order.shards_ahead(step, 8))
        return np.stack([self.reader.image(position) for position in self.order.batch(step)[0].tolist()])


@pytest.mark.slow
def test_loader_processes_that_share_a_cache_give_the_pictures_of_the_local_shards(toy_data, stored):
    pairs = replace(stored[0], cache=stored[1])
    expected = [Windowed(load_pairs(*toy_data))[step] for step in range(8)]
    dataset = Windowed(pairs)
    dataset[0]  # as the main process does before it forks: the workers inherit files and a running prefetch
    found = list(DataLoader(dataset, batch_size=None, sampler=range(8), num_workers=2))
    assert all(np.array_equal(one, other) for one, other in zip(expected, found, strict=True))


def test_prefetching_local_shards_does_nothing(toy_data):
    load_pairs(*toy_data).prefetch([0, 1])


def test_urls_without_a_cache_are_refused_before_anything_is_read(toy_data, tmp_path):
    shutil.copytree(toy_data[0], tmp_path / "raw")
    use_urls(tmp_path / "raw" / "index.parquet", "s3://bucket/")
    with pytest.raises(ConfigError, match=r"\(s3://bucket/train/00000.tar\), and this stage reads local ones only"):
        PairReader(load_pairs(tmp_path / "raw", toy_data[1]))


def test_sizes_of_shards_follow_from_the_index(toy_data):
    pairs = load_pairs(*toy_data)
    assert pairs.shard_sizes.tolist() == [32, 31]
    sizes = [(pairs.folder / shard).stat().st_size for shard in pairs.shards]
    assert all(0 <= size - least < 16384 for size, least in zip(sizes, pairs.shard_bytes, strict=True))
    with pytest.raises(DataError, match="not in shard order"):
        _ = replace(pairs, shard=pairs.shard[::-1]).shard_sizes


def test_a_cache_too_small_for_the_shuffle_is_refused_with_the_numbers(stored):
    pairs, cache = stored
    check_cache(pairs, 0)
    check_cache(replace(pairs, cache=cache), 0)
    many = replace(
        pairs,
        cache=cache,
        shards=tuple(f"s3://b/{number}.tar" for number in range(63)),
        shard=np.arange(63, dtype=np.int32),
        offset=np.full(63, 8 * MIB),
    )
    check_cache(many, 3)
    with pytest.raises(ConfigError, match=re.escape("two windows of 4 shards do not fit the cache")):
        check_cache(many, 4)
    with pytest.raises(ConfigError, match=r"shuffled all together, do not .*got 0.06, wanted 0.49 GiB; raise.*a few"):
        check_cache(many, 0)


def test_few_files_are_open_at_a_time_and_none_after_the_reader(toy_data, monkeypatch, tmp_path):
    monkeypatch.setattr(shard_files, "_MOST_OPEN", 3)
    for number in range(8):
        (tmp_path / f"{number}.tar").write_bytes(bytes([number]) * 9)
    files = shard_files.ShardFiles(tmp_path, [f"{number}.tar" for number in range(8)])
    for number in (0, 1, 2, 0, 3, 4, 0, 7, 6, 5, 0):
        assert files.read(number, 4, 2) == bytes([number] * 2)
        assert open_files(tmp_path) <= 3
    del files
    assert open_files(tmp_path) == 0


def test_a_missing_and_a_short_shard_are_named(toy_data, tmp_path):
    raw = tmp_path / "raw"
    shutil.copytree(toy_data[0], raw)
    pairs = load_pairs(raw, toy_data[1])
    os.truncate(raw / pairs.shards[0], int(pairs.offset[3]) + 1)
    (raw / pairs.shards[1]).unlink()
    assert PairReader(pairs).image(2).shape == (32, 32, 3)
    with pytest.raises(DataError, match=r"00000.tar ends inside a sample, got 1, wanted.*rerun"):
        PairReader(pairs).image(3)
    with pytest.raises(DataError, match=r"00001.tar is missing; rerun"):
        PairReader(pairs).image(40)
