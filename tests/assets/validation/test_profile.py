import json
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets import index_parts
from assets.atomic import write_json
from assets.index import INDEX, SCHEMA
from assets.index_parts import read_splits
from assets.validation.caption_sample import key_hashes, sample_captions
from assets.validation.decisions import REASONS
from assets.validation.profile import EDGES, QUANTILES, histogram, make_profile, quantiles


@pytest.fixture
def index(tmp_path):
    """Write an index of 300 rows in two splits; return its folder and columns."""
    rng = np.random.default_rng(0)
    rows = 300
    captions = [" ".join(["dog", "cat", "Tree"][: 1 + row % 3]) for row in range(rows)]
    columns = {name: np.zeros(rows, np.int64) for name in SCHEMA.names}
    columns |= {
        "key": [f"k{row}" for row in range(rows)],
        "split": ["train"] * 250 + ["test"] * 50,
        "shard": ["train/00000.tar"] * 250 + ["test/00000.tar"] * 50,
        "extension": ["jpg" if row % 4 else "png" for row in range(rows)],
        "caption": captions,
        "width": rng.integers(1, 40_000, rows),
        "height": rng.integers(1, 2000, rows),
        "image_size": rng.integers(0, 10**8, rows),
        "caption_words": [len(text.split()) for text in captions],
        "caption_chars": [len(text) for text in captions],
        "image_hash": ["0" * 16] * rows,
        "caption_hash": ["0" * 16] * rows,
    }
    table = pa.Table.from_pydict(columns, schema=SCHEMA)
    for folder, group in (("whole", 1000), ("cut", 7)):
        (tmp_path / folder).mkdir()
        pq.write_table(table, tmp_path / folder / INDEX, row_group_size=group)
    return tmp_path / "whole", columns


def test_every_value_falls_into_the_bin_whose_lower_edge_it_reaches():
    assert histogram(np.array([0, 15, 16, 18, 19, 10**9]), [0, 16, 19]) == [2, 2, 2]
    assert histogram(np.array([], np.int32), [0, 16, 19]) == [0, 0, 0]


@pytest.mark.parametrize("edges", EDGES.values(), ids=EDGES)
def test_edges_rise_and_begin_at_nothing(edges):
    assert edges[0] == 0 and all(low < high for low, high in pairwise(edges))


def test_quantiles_are_values_that_occur():
    values = np.array([5, 1, 9, 3])
    assert quantiles(values) == [int(np.sort(values)[max(int(np.ceil(q * 4)) - 1, 0)]) for q in QUANTILES]
    assert quantiles(np.array([])) == []


def test_the_profile_equals_a_count_by_hand(index):
    folder, columns = index
    reasons = np.zeros(300, np.uint8)
    reasons[::5] = REASONS.index("blank") + 1
    made = make_profile(folder, read_splits(folder), reasons, 1000)
    for split, rows in (("train", range(250)), ("test", range(250, 300))):
        kept = [row for row in rows if row % 5]
        found = made["splits"][split]
        assert found["accepted"] == len(kept) and found["rejected"] == {"blank": len(rows) - len(kept)}
        sizes = [int(columns["width"][row]) for row in kept]
        edges = [*EDGES["width"], float("inf")]
        by_hand = [sum(low <= size < high for size in sizes) for low, high in pairwise(edges)]
        assert found["histograms"]["width"] == by_hand
        ratios = sorted(np.float32(columns["width"][row]) / np.float32(columns["height"][row]) for row in kept)
        assert found["quantiles"]["aspect_ratio"][-1] == pytest.approx(float(ratios[-1]), rel=1e-4)
        assert found["formats"]["png"] == sum(row % 4 == 0 for row in kept)
        assert found["words"]["captions"] == len(kept) == sum(found["languages"].values())
        assert found["words"]["most_frequent"] == {
            "dog": len(kept),
            "cat": sum(row % 3 > 0 for row in kept),
            "tree": sum(row % 3 > 1 for row in kept),
        }


def test_the_profile_does_not_depend_on_how_the_index_is_cut(index, monkeypatch, tmp_path):
    folder, _ = index
    reasons = np.zeros(300, np.uint8)
    splits = read_splits(folder)
    whole = make_profile(folder, splits, reasons, 40)
    monkeypatch.setattr(index_parts, "BATCH_ROWS", 1)
    assert make_profile(tmp_path / "cut", splits, reasons, 40) == whole
    write_json(tmp_path / "profile.json", whole)
    assert (tmp_path / "profile.json").stat().st_size < 30_000
    assert json.loads((tmp_path / "profile.json").read_text()) == whole


def test_captions_are_chosen_by_the_hash_of_their_key(index, monkeypatch, tmp_path):
    folder, columns = index
    reasons = np.zeros(300, np.uint8)
    reasons[3] = 1
    monkeypatch.setattr(index_parts, "BATCH_ROWS", 64)
    chosen = sample_captions(tmp_path / "cut", read_splits(folder), reasons, 20)
    hashes = key_hashes(pa.array(columns["key"]))
    lowest = sorted((row for row in range(250) if row != 3), key=lambda row: hashes[row])[:20]
    assert chosen["train"] == [columns["caption"][row] for row in sorted(lowest)]
    assert len(chosen["test"]) == 20


def test_hashes_of_keys_are_the_same_for_ever():
    assert [f"{number:016x}" for number in key_hashes(pa.array(["a", "train-00001"])).tolist()] == HASHES


HASHES = ["c1999a454057bfd0", "34fb82c0f8e7fa02"]
