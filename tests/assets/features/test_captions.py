"""What evaluation reads out of KEY.json: every caption of accepted samples, in index order, across shards."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets.errors import DataError
from assets.features.captions import read_further_captions
from assets.index import index_row, rows_table, write_table
from assets.progress import Stage
from assets.shards import ShardWriter
from assets.sources.base import Sample

TOLD = [
    {"captions": {"en": "a cat", "de": "eine Katze"}},
    {"captions": {"en": "a dog", "de": 3}},
    {"captions": "none"},
    {},
    {"captions": {"de": "ein Haus", "long": "A house. It is red."}},
]


@pytest.fixture
def folders(tmp_path):
    """Five samples in shards of two, of which the first is rejected."""
    raw, valid = tmp_path / "raw", tmp_path / "valid"
    (raw / "test").mkdir(parents=True)
    valid.mkdir()
    rows = []
    for shard in range(3):
        name = f"test/{shard:05d}.tar"
        with (raw / name).open("wb") as stream:
            writer = ShardWriter(stream)
            for number in range(2 * shard, min(2 * shard + 2, 5)):
                sample = Sample(f"k{number}", b"no picture", "jpg", f"caption {number}", TOLD[number])
                rows.append(index_row(sample, "test", name, writer.write(sample)))
            writer.close()
    write_table(rows_table(rows), raw / "index.parquet")
    keys = ["k1", "k2", "k3", "k4"]
    pq.write_table(pa.table({"key": keys, "split": ["test"] * 4}), valid / "accepted.parquet")
    return raw, valid


def test_every_name_has_a_place_for_every_accepted_sample(folders):
    assert read_further_captions(*folders, "test", None, Stage("test")) == {
        "en": ["a dog", None, None, None],
        "de": [None, None, None, "ein Haus"],
        "long": [None, None, None, "A house. It is red."],
    }


def test_a_split_without_accepted_samples_is_refused(folders):
    pq.write_table(pa.table({"key": ["k1"], "split": ["train"]}), folders[1] / "accepted.parquet")
    with pytest.raises(DataError, match="accepts no pair of split test"):
        read_further_captions(*folders, "test", None, Stage("test"))
