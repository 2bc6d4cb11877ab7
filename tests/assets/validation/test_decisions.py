import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from assets import index_parts
from assets.index_parts import read_splits
from assets.validation.decisions import REASONS, Decisions, decide, repeated_keys, split_table
from assets.validation.duplicates import among, frequent, hash_numbers
from assets.validation.measures import Measures, write_marker


@pytest.fixture
def raw(make_raw, picture, sample, monkeypatch):
    monkeypatch.setattr(index_parts, "BATCH_ROWS", 3)
    captions = ["two small dogs", "IMG_1234.jpg", "dogs", "two small dogs", "two small dogs"]
    train = [sample(f"t{row}", picture(row % 4), caption) for row, caption in enumerate(captions)]
    return make_raw({"train": train, "test": [sample("e0", picture(3)), sample("t1", picture(9))]})


@pytest.fixture
def measures(tmp_path) -> Measures:
    """One shard whose fourth picture is blank."""
    contrast = np.full(7, 40, dtype=np.float32)
    contrast[2] = 0
    signatures = np.random.default_rng(0).integers(0, 256, (7, 972), dtype=np.uint8)
    write_marker(tmp_path / "all.parquet", b"", contrast, signatures)
    return Measures((tmp_path / "all.parquet",), np.array([7]))


def test_the_first_rule_that_rejects_a_row_says_why(raw, measures, config):
    decisions = decide(raw, measures, config, read_splits(raw).among(["train"]))
    got = {row: REASONS[decisions.reasons[row] - 1] for row in decisions.rejected.tolist()}
    # row 2 is blank before its caption is short; row 3 shows the picture of the test, row 4 that of row 0
    assert got == {1: "file_name", 2: "blank", 3: "in_evaluation", 4: "duplicate_image"}
    assert decisions.values.to_pylist() == ["IMG_1234.jpg", "0.0", "e0", "t0"]
    assert decisions.values_of([4, 1]).to_pylist() == ["t0", "IMG_1234.jpg"]
    assert decisions.counts()["blank"] == 1 and sum(decisions.counts().values()) == 4


def test_splits_are_counted_whether_declared_or_found(raw, config):
    reasons = np.array([0, 1, 0, 0, 0, 0, 2], dtype=np.uint8)
    decisions = Decisions(reasons, np.array([1, 6]), pa.array(["", ""]))
    declared = {"train": {"role": "train", "samples": 5}, "gone": {"role": "retrieval", "samples": 3}}
    table = split_table(raw, read_splits(raw), declared, decisions, config).set_index("split")
    wanted = {
        "train": ["train", 5, 5, 0, 4, 1, 5],
        "gone": ["retrieval", 3, 0, 0, 0, 0, 0],
        "test": ["undeclared", 0, 2, 1, 1, 1, 2],
    }
    columns = ["role", "declared", "found", "repeated_keys", "accepted", "rejected", "accounted"]
    pd.testing.assert_frame_equal(
        table[columns].astype(object), pd.DataFrame(wanted, columns).T.astype(object), check_names=False
    )


def test_decisions_that_do_not_add_up_show_in_the_table(raw, config):
    decisions = Decisions(np.zeros(7, dtype=np.uint8), np.array([1]), pa.array([""]))
    table = split_table(raw, read_splits(raw), {}, decisions, config).set_index("split")
    assert table.loc["train", "accounted"] == 6 and table.loc["train", "found"] == 5


def test_repeated_keys_are_those_that_stood_before(raw):
    assert repeated_keys(raw).tolist() == [6]


def test_keys_of_equal_hash_are_compared_as_they_are(raw, monkeypatch):
    monkeypatch.setattr(pd.util, "hash_array", lambda keys, **_: np.ones(len(keys), dtype=np.uint64))
    assert repeated_keys(raw).tolist() == [6]


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_frequent_values_are_those_a_counter_finds(limit):
    values = np.random.default_rng(0).integers(0, 40, 90, dtype=np.uint64)
    numbers, counts = np.unique(values, return_counts=True)
    found = frequent(values, limit)
    assert found.tolist() == numbers[counts > limit].tolist() and len(found)
    assert np.array_equal(among(values, found), np.isin(values, found))
    assert not len(frequent(values[:1], limit)) and not among(values, found[:0]).any()


def test_hashes_of_a_slice_become_numbers_and_any_wrong_digit_is_refused():
    column = pa.array(["ffffffffffffffff", "0123456789abcdef", "", "8000000000000001"])
    assert hash_numbers(column.slice(1), "x").tolist() == [0x0123456789ABCDEF, 0, 1 << 63 | 1]
    assert hash_numbers(column.slice(4), "x").tolist() == []
    for wrong in (
        "0123456789ABCDEF",
        "0123456789abcde",
        "0123456789abcdeg",
        "0123456789abcde\N{LATIN SMALL LETTER E WITH ACUTE}",
    ):
        with pytest.raises(ValueError, match="column x holds values that are no hash"):
            hash_numbers(pa.array([wrong]), "x")
