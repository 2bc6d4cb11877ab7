from pathlib import Path

import numpy as np
import pytest

from assets.errors import ConfigError
from assets.reduction import semdedup
from assets.reduction.semdedup import keep, nearest_earlier
from assets.unit import unit

CASE = np.load(Path(__file__).parents[2] / "fixtures/tldr/case_a.npz")
ROWS, LABELS, CENTROIDS = CASE["sdd_emb"], CASE["sdd_assign"], CASE["sdd_centroids"]
RANKS = np.random.default_rng(0).permutation(len(ROWS))
RNG = np.random.default_rng(1)
MANY = unit(RNG.standard_normal((400, 6), dtype=np.float32))
MANY[300:] = MANY[:100]
MANY_LABELS = np.where(np.arange(400) == 7, 4, np.arange(400) % 100 % 3)  # 3 is empty, 4 has one row
MANY_CENTROIDS = np.stack([MANY[MANY_LABELS == k].sum(axis=0) for k in range(5)])
MANY_RANKS = RNG.permutation(400)


def many(order="hard", rows=MANY):
    return nearest_earlier(rows, MANY_LABELS, MANY_CENTROIDS, MANY_RANKS, order)


def slow(order):
    """Follow the definition a pair at a time."""
    most = np.zeros(len(MANY))
    for k in range(len(MANY_CENTROIDS)):
        cosines = {row: float(np.float32(MANY[row].astype(float) @ unit(MANY_CENTROIDS)[k])) for row in range(400)}
        members = [row for row in range(400) if MANY_LABELS[row] == k]
        sign = {"hard": 1, "easy": -1, "random": 0}[order]
        members.sort(key=lambda row: (sign * cosines[row], MANY_RANKS[row]))
        for place, row in enumerate(members):
            most[row] = max([0.0, *(float(MANY[row] @ MANY[other]) for other in members[:place])])
    return most


def test_similarities_to_earlier_rows_are_the_published_ones():
    found = nearest_earlier(ROWS, LABELS, CENTROIDS, RANKS).similarity
    assert np.abs(found[CASE["sdd_order"]] - CASE["sdd_M"]).max() < 1e-5


@pytest.mark.parametrize("order", ["hard", "easy"])
@pytest.mark.parametrize("case", range(4))
def test_the_published_rows_are_kept(order, case):
    found = nearest_earlier(ROWS, LABELS, CENTROIDS, RANKS, order)
    kept = keep(found, RANKS, eps=float(CASE["sdd_eps"][case]))
    assert np.array_equal(kept, CASE[f"sdd_keep_{order}_{case}"])


@pytest.mark.parametrize("order", ["hard", "easy", "random"])
def test_similarities_are_those_of_the_definition(order):
    assert np.abs(many(order).similarity - slow(order)).max() < 1e-6


@pytest.mark.parametrize(("block", "held"), [(16, 1 << 18), (16, 0), (33, 64)])
def test_blocks_change_nothing_whether_rows_are_held_or_read_again(monkeypatch, block, held):
    whole = many()
    monkeypatch.setattr(semdedup, "_BLOCK", block)
    monkeypatch.setattr(semdedup, "_HELD", held)
    parts = many()
    assert np.abs(parts.similarity - whole.similarity).max() < 1e-6
    assert np.array_equal(parts.first, whole.first)


def test_the_first_row_of_each_cluster_stays_whatever_eps_is():
    found = many()
    assert found.first.sum() == 4  # one is empty
    assert found.first[7]  # the only one of its cluster
    assert found.similarity[found.first].tolist() == [0] * 4
    assert np.array_equal(keep(found, MANY_RANKS, eps=2.0) & ~found.first, found.similarity < -1)


def test_sets_are_nested_in_eps_and_a_tiny_one_drops_only_copies():
    found = many()
    previous = keep(found, MANY_RANKS, eps=1e-5)
    copies = np.arange(300, 400)
    copies = copies[copies != 307]  # whose twin has a cluster of its own
    # one of the two, and nothing else
    assert (previous[copies] ^ previous[copies - 300]).all()
    assert previous.sum() == 400 - len(copies)
    for eps in (0.01, 0.1, 0.5, 1.0):
        kept = keep(found, MANY_RANKS, eps=eps)
        assert not (kept & ~previous).any()
        previous = kept


def test_a_budget_is_exact_and_is_the_set_of_the_fitting_eps():
    found = many()
    for eps in (0.05, 0.2, 0.5):
        kept = keep(found, MANY_RANKS, eps=eps)
        assert np.array_equal(keep(found, MANY_RANKS, budget=int(kept.sum())), kept)
    previous = np.zeros(400, dtype=bool)
    for budget in (0, 4, 5, 250, 400):
        kept = keep(found, MANY_RANKS, budget=budget)
        assert kept.sum() == budget
        assert not (previous & ~kept).any()
        previous = kept
    assert np.array_equal(keep(found, MANY_RANKS, budget=4), found.first)


@pytest.mark.parametrize("order", ["hard", "easy", "random"])
def test_the_order_of_rows_changes_nothing(order):
    mixed = np.random.default_rng(3).permutation(400)
    again = nearest_earlier(MANY[mixed], MANY_LABELS[mixed], MANY_CENTROIDS, MANY_RANKS[mixed], order)
    assert np.array_equal(again.similarity, many(order).similarity[mixed])
    assert np.array_equal(again.first, many(order).first[mixed])


def test_rows_of_half_precision_and_of_any_norm_are_taken_from_a_mapped_file(tmp_path):
    mapped = np.lib.format.open_memmap(tmp_path / "rows.npy", "w+", np.float16, MANY.shape)
    mapped[:] = 3 * MANY
    found = many(rows=mapped)
    kept = keep(found, MANY_RANKS, eps=1e-3)
    assert (kept[np.arange(310, 400)] ^ kept[np.arange(10, 100)]).all()
    assert np.abs(found.similarity - many(rows=unit(mapped.astype(np.float32))).similarity).max() < 1e-6


def test_planted_copies_go_and_the_rest_stays():
    rng = np.random.default_rng(4)
    rows = unit(rng.standard_normal((3000, 32), dtype=np.float32))
    rows[2700:] = unit(rows[:300] + 0.01 * rng.standard_normal((300, 32), dtype=np.float32))
    directions = unit(rng.standard_normal((8, 32), dtype=np.float32))
    labels = (rows @ directions.T).argmax(axis=1)
    found = nearest_earlier(rows, labels, directions, rng.permutation(3000))
    kept = keep(found, np.arange(3000), eps=0.05)
    gone = ~kept[:300] | ~kept[2700:]
    assert gone.mean() > 0.9  # the others fell into two clusters
    assert kept[300:2700].all()


def test_settings_that_say_nothing_or_too_much_are_refused():
    found = many()
    for settings in ({}, {"eps": 0.1, "budget": 3}):
        with pytest.raises(ConfigError, match="by eps or down to a budget; give one of both"):
            keep(found, MANY_RANKS, **settings)
    with pytest.raises(ConfigError, match=r"eps of SemDeDup is out of range, got 2\.5, wanted 0 to 2"):
        keep(found, MANY_RANKS, eps=2.5)
    with pytest.raises(ConfigError, match="cannot keep 401 pairs"):
        keep(found, MANY_RANKS, budget=401)
