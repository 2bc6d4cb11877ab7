from pathlib import Path

import numpy as np
import pytest

from assets.errors import DataError
from assets.progress import Stage
from assets.validation.language import identify_shard
from assets.validation.shard_pass import ShardPass, ShardSamples, run_pass

SHARDS = {"train/00000.tar": 2, "train/00001.tar": 2, "test/00000.tar": 1}
CALLS = "calls"


def key_lengths(samples: ShardSamples) -> np.ndarray:
    """Measure something of a shard and note that it was asked for."""
    with (samples.raw / CALLS).open("a") as stream:
        stream.write(f"{samples.shard}\n")
    return np.array([len(key) for key in samples.rows["key"]], dtype=np.float32)


def failing(samples: ShardSamples) -> np.ndarray:
    if samples.shard.startswith("test"):
        raise DataError("the last shard cannot be read")
    return key_lengths(samples)


def calls(raw: Path) -> list[str]:
    return (raw / CALLS).read_text().split() if (raw / CALLS).is_file() else []


@pytest.fixture
def raw(make_raw, picture, sample):
    keys = {"train": ("a", "bb", "ccc", "dddd"), "test": ("eeeee",)}
    return make_raw({split: [sample(key, picture(1)) for key in names] for split, names in keys.items()})


def measure(raw, work, version="1", measured=key_lengths, workers=0):
    with Stage("validate@toy") as stage:
        return run_pass(stage, ShardPass("length", version, ("key",), measured), raw, SHARDS, work, workers)


def test_values_stand_in_index_order(raw, tmp_path):
    assert measure(raw, tmp_path / "work").tolist() == [1, 2, 3, 4, 5]
    assert calls(raw) == list(SHARDS)


@pytest.mark.slow
def test_other_processes_find_the_same(raw, tmp_path):
    found = []
    for workers in (0, 2):
        with Stage("validate@toy") as stage:
            what = ShardPass("language", "1", ("caption",), identify_shard)
            found.append(run_pass(stage, what, raw, SHARDS, tmp_path / str(workers), workers))
    assert found[0].shape == (5, 2) and np.array_equal(*found)


def test_nothing_is_measured_twice_until_the_version_changes(raw, tmp_path):
    first = measure(raw, tmp_path / "work")
    assert measure(raw, tmp_path / "work").tolist() == first.tolist()
    assert len(calls(raw)) == len(SHARDS)
    measure(raw, tmp_path / "work", version="2")
    assert len(calls(raw)) == 2 * len(SHARDS)


def test_a_run_that_stopped_goes_on_where_it_was(raw, tmp_path):
    with pytest.raises(DataError, match="the last shard"):
        measure(raw, tmp_path / "work", measured=failing)
    assert measure(raw, tmp_path / "work").tolist() == [1, 2, 3, 4, 5]
    assert calls(raw) == list(SHARDS)
