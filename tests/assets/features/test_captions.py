"""What evaluation reads out of KEY.json: every caption of accepted samples, in index order, across shards."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets.errors import DataError
from assets.features.captions import read_further_captions
from assets.progress import Stage
from assets.sources.base import Sample
from tests.toy_folders import accept, write_shards

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
    samples = [Sample(f"k{n}", b"no picture", "jpg", f"caption {n}", TOLD[n]) for n in range(5)]
    write_shards(raw, "test", [samples[:2], samples[2:4], samples[4:]])
    accept(valid, ["k1", "k2", "k3", "k4"], "test")
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
