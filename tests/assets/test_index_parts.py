import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets import index_parts
from assets.index import INDEX
from assets.index_parts import batches, read_splits, take_rows


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """Ten rows in row groups of three, read two groups at a time."""
    splits = ["train"] * 4 + ["test"] * 5 + ["train"]
    table = pa.table({"key": [f"k{row}" for row in range(10)], "split": splits, "width": np.arange(10)})
    pq.write_table(table, tmp_path / INDEX, row_group_size=3)
    monkeypatch.setattr(index_parts, "BATCH_ROWS", 5)
    return tmp_path


def test_parts_are_whole_row_groups_and_hold_every_row_once(raw):
    parts = list(batches(raw, ["width", "key"]))
    assert [part.num_rows for part in parts] == [6, 4]
    assert parts[0].schema.names == ["width", "key"]
    assert np.concatenate([part.column("width").to_numpy() for part in parts]).tolist() == list(range(10))


@pytest.mark.parametrize("rows", [[], [3], [9, 0, 7, 7, 2], list(range(10))])
def test_rows_are_taken_in_the_order_given(raw, rows):
    table = take_rows(raw, ["key"], np.array(rows, dtype=np.int64))
    assert table.column_names == ["key"]
    assert table["key"].to_pylist() == [f"k{row}" for row in rows]


def test_splits_become_numbers_in_the_order_they_appear(raw):
    splits = read_splits(raw)
    assert splits.names == ("train", "test")
    assert splits.codes.tolist() == [0] * 4 + [1] * 5 + [0]
    assert np.flatnonzero(splits.among(["test", "unheard_of"])).tolist() == [4, 5, 6, 7, 8]


def test_an_index_without_rows_has_no_splits(tmp_path):
    pq.write_table(pa.table({"split": pa.array([], pa.string())}), tmp_path / INDEX)
    splits = read_splits(tmp_path)
    assert (splits.names, len(splits.codes), len(splits.among(["train"]))) == ((), 0, 0)
