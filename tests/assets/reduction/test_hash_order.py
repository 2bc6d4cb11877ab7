import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from assets.errors import DataError
from assets.reduction.hash_order import key_hashes, ranks, uniforms

CASE = np.load(Path(__file__).parents[2] / "fixtures/tldr/case_a.npz")
KEYS = [f"key-{number}" for number in range(500)]


def slow_hash(key, seed):
    return int.from_bytes(hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest(), "big")


def test_hashes_are_the_published_ones():
    found = key_hashes(CASE["own_keys"], int(CASE["own_seed"]))
    assert found.dtype == np.uint64
    assert np.array_equal(found, CASE["own_hash"])


@pytest.mark.parametrize("kind", [list, np.array, pa.array, lambda keys: pa.chunked_array([keys[:7], keys[7:]])])
def test_all_kinds_of_keys_have_the_same_hashes(kind):
    keys = [*KEYS, "", "K\u00fche/\u732b.jpg"]
    assert key_hashes(kind(keys), 3).tolist() == [slow_hash(key, 3) for key in keys]
    assert ranks(kind(keys), key_hashes(kind(keys), 3)).tolist() == ranks(keys, key_hashes(keys, 3)).tolist()


def test_more_keys_than_fit_into_a_batch_are_hashed():
    keys = [str(number) for number in range((1 << 16) + 5)]
    found = key_hashes(keys, 0)
    assert [int(found[row]) for row in (0, 1 << 16, -1)] == [slow_hash(keys[row], 0) for row in (0, 1 << 16, -1)]


def test_ranks_are_places_by_hash_then_key():
    hashes = np.array([5, 1, 5, 5, 0], dtype=np.uint64)
    assert ranks(["b", "z", "c", "a", "y"], hashes).tolist() == [3, 1, 4, 2, 0]


def test_ranks_belong_to_keys_and_not_to_rows():
    known = dict(zip(KEYS, ranks(KEYS, key_hashes(KEYS, 1)).tolist(), strict=True))
    mixed = [KEYS[row] for row in np.random.default_rng(0).permutation(len(KEYS))]
    assert ranks(mixed, key_hashes(mixed, 1)).tolist() == [known[key] for key in mixed]
    assert sorted(known.values()) == list(range(len(KEYS)))


def test_a_part_of_the_pool_keeps_its_order():
    whole, part = ranks(KEYS, key_hashes(KEYS, 1))[::3], ranks(KEYS[::3], key_hashes(KEYS[::3], 1))
    assert np.array_equal(np.argsort(whole), np.argsort(part))


def test_repeated_keys_are_refused_by_name():
    keys = [*KEYS[5::-1], "key-3", "key-1", "key-1"]
    with pytest.raises(
        DataError, match=r"2 of the pool's keys stand in more than one row \(key-1, key-3\); give every"
    ):
        ranks(keys, key_hashes(keys, 0))


def test_no_keys_have_no_order():
    assert len(ranks([], key_hashes([], 0))) == 0


def test_uniforms_fill_the_unit_interval_evenly_and_independently():
    keys = key_hashes([str(number) for number in range(20_000)], 0)
    entries = key_hashes(["cat", "dog"], 0)
    cat, dog = (uniforms(keys, np.full(len(keys), entry)) for entry in entries)
    for draws in (cat, dog, uniforms(keys)):
        assert draws.min() >= 0
        assert draws.max() < 1
        assert np.abs(np.histogram(draws, 10, (0, 1))[0] - 2000).max() < 200
    assert abs(np.corrcoef(cat, dog)[0, 1]) < 0.03


def test_the_largest_number_stays_below_one():
    assert float(uniforms(np.array([np.iinfo(np.uint64).max, 0], dtype=np.uint64)).max()) < 1
