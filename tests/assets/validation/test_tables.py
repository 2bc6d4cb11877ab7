import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets import index_parts
from assets.index import INDEX
from assets.validation import tables
from assets.validation.decisions import REASONS, Decisions
from assets.validation.tables import write_tables

ROWS = 700


@pytest.fixture
def raw(tmp_path):
    number = np.arange(ROWS)
    columns = {
        "key": [f"k{row}" for row in number],
        "split": np.where(number < 600, "train", "test"),
        "shard": [f"train/{row // 100:05d}.tar" for row in number],
    }
    pq.write_table(pa.table(columns), tmp_path / INDEX, row_group_size=50)
    return tmp_path


@pytest.fixture
def decisions() -> Decisions:
    """Every third row is rejected, for all reasons in turn."""
    rejected = np.arange(0, ROWS, 3)
    reasons = np.zeros(ROWS, dtype=np.uint8)
    reasons[rejected] = 1 + np.arange(len(rejected)) % len(REASONS)
    return Decisions(reasons, rejected, pa.array([f"met {row}" for row in rejected]))


def test_every_row_stands_in_one_table_in_index_order(raw, decisions, monkeypatch):
    monkeypatch.setattr(index_parts, "BATCH_ROWS", 120)
    monkeypatch.setattr(tables, "_GROUP_ROWS", 64)
    write_tables(raw / "out", raw, decisions)
    accepted, rejects = (pq.read_table(raw / "out" / f"{name}.parquet") for name in ("accepted", "rejects"))
    rejected = list(range(0, ROWS, 3))
    assert accepted["key"].to_pylist() == [f"k{row}" for row in range(ROWS) if row % 3]
    assert accepted["split"].to_pylist() == ["train" if row < 600 else "test" for row in range(ROWS) if row % 3]
    assert rejects["key"].to_pylist() == [f"k{row}" for row in rejected]
    assert rejects["shard"].to_pylist() == [f"train/{row // 100:05d}.tar" for row in rejected]
    assert rejects["reason"].to_pylist() == [REASONS[place % len(REASONS)] for place in range(len(rejected))]
    assert rejects["value"].to_pylist() == [f"met {row}" for row in rejected]


def test_the_bytes_do_not_depend_on_how_many_rows_are_read_at_once(raw, decisions, monkeypatch):
    monkeypatch.setattr(tables, "_GROUP_ROWS", 64)
    written: list[list[bytes]] = []
    for rows in (50, 300, 10_000):
        monkeypatch.setattr(index_parts, "BATCH_ROWS", rows)
        write_tables(raw / "out", raw, decisions)
        written.append([(raw / "out" / f"{name}.parquet").read_bytes() for name in ("accepted", "rejects")])
    assert written[0] == written[1] == written[2]


def test_a_failure_leaves_no_table(raw, decisions):
    short = Decisions(decisions.reasons, decisions.rejected[:1], decisions.values[:1])
    with pytest.raises(IndexError):
        write_tables(raw / "out", raw, short)
    assert not list((raw / "out").iterdir())
