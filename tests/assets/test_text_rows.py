"""Folders of text rows as they are written, in both ways of storing, and everything that can be wrong with one."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from assets.errors import ConfigError, DataError
from assets.manifest import write_manifest
from assets.sidecar import SidecarWriter
from assets.text_rows import SLOT_MEANS, TextRows, refuse_other_data

SLOTS = [["raw", "overall"], ["long", "overall"], ["long", "object"]]
KEYS = [f"pair-{number}" for number in range(40)]
WIDTH = 32


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def made_rows() -> np.ndarray:
    """Unit rows that share most of their direction, as those of a small language model."""
    random = np.random.default_rng(0)
    return unit(4 * random.normal(size=(3, WIDTH)) + random.normal(size=(len(KEYS), 3, WIDTH)))


def centred(rows: np.ndarray) -> np.ndarray:
    return unit(rows - rows.mean(axis=0))


def write(folder: Path, stored: np.ndarray, config: dict | None = None, means: np.ndarray | None = None) -> Path:
    writer = SidecarWriter(folder, stored.dtype, stored.shape[1:])
    writer.write_shard("train/00000", pa.array(KEYS), stored)
    stage = {"kind": "facets", "slots": SLOTS, "centred": False} if config is None else config
    writer.finish(["train/00000"], "toy", stage, {"raw": "r1", "valid": "v1"}, "test")
    if means is not None:
        np.save(folder / SLOT_MEANS, means)
    return folder


def means_of(rows: np.ndarray) -> np.ndarray:
    return rows.mean(axis=0).astype(np.float32)


@pytest.fixture
def plain(tmp_path) -> Path:
    rows = made_rows()
    return write(tmp_path / "plain", rows.astype(np.float16), means=means_of(rows))


@pytest.fixture
def small(tmp_path) -> Path:
    """Centred rows, each scaled to the range of int8."""
    rows = made_rows()
    apart = rows - rows.mean(axis=0)
    stored = np.rint(127 * apart / np.abs(apart).max(axis=-1, keepdims=True)).astype(np.int8)
    return write(tmp_path / "small", stored, {"kind": "facets", "slots": SLOTS, "centred": True}, means=means_of(rows))


def read(folder: Path, **options) -> np.ndarray:
    text_rows = TextRows(folder, **options)
    rows = text_rows.rows(text_rows.join(pa.array(KEYS)))
    assert rows.dtype == np.float32 and np.allclose(np.linalg.norm(rows, axis=-1), 1, atol=1e-5)
    return rows


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (unit(one.astype(np.float64)) * unit(other)).sum(axis=-1)


@pytest.mark.parametrize("folder", ["plain", "small"])
def test_both_ways_of_storing_give_plain_and_centred_rows(folder, request):
    path = request.getfixturevalue(folder)
    assert cosines(read(path), made_rows()).min() > 0.9999
    assert cosines(read(path, center=True), centred(made_rows())).min() > 0.999


def test_centred_rows_know_more_than_plain_ones(plain):
    def mean_cosine(rows: np.ndarray) -> float:
        return float((rows[:-1, 0] * rows[1:, 0]).sum(axis=-1).mean())

    assert mean_cosine(read(plain)) > 0.8
    assert abs(mean_cosine(read(plain, center=True))) < 0.2


def test_rows_come_in_the_order_asked_for(plain):
    text_rows = TextRows(plain)
    wanted = ["pair-7", "pair-0", "pair-7"]
    rows = text_rows.rows(text_rows.join(pa.array(wanted)))
    assert np.array_equal(rows[0], rows[2])
    assert cosines(rows, made_rows()[[7, 0, 7]]).min() > 0.9999


def test_slots_are_chosen_by_name_and_stay_in_the_order_of_the_folder(plain):
    names = {
        ("long/object", "raw/overall"): (0, 2),
        ("long/*",): (1, 2),
        ("*/overall", "raw/*"): (0, 1),
    }
    for given, places in names.items():
        text_rows = TextRows(plain, given)
        assert text_rows.facts.chosen == places
        assert cosines(text_rows.rows(np.arange(3)), made_rows()[:3, list(places)]).min() > 0.9999
    facts = TextRows(plain, ("long/object",), center=True).facts
    assert facts.names == ["long/object"] and facts.slot_means.shape == (3, WIDTH)
    assert cosines(read(plain, slots=("long/object",), center=True), centred(made_rows())[:, 2:]).min() > 0.999


def test_rows_of_one_vector_are_one_slot(tmp_path):
    rows = made_rows()[:, 0]
    config = {"kind": "sentences", "slots": [["caption", "sentence"]], "centred": False}
    folder = write(tmp_path / "flat", rows.astype(np.float16), config)
    assert read(folder).shape == (len(KEYS), 1, WIDTH)
    assert TextRows(folder).facts.slot_means is None


@pytest.mark.parametrize(
    ("slots", "fault"),
    [(("long/objct",), "unknown slot 'long/objct' .*did you mean 'long/object'"), (("x/*",), "valid: long/object")],
)
def test_a_slot_that_is_not_there_is_refused_with_those_that_are(plain, slots, fault):
    with pytest.raises(ConfigError, match=fault):
        TextRows(plain, slots)


def test_a_folder_that_is_missing_unfinished_or_of_another_kind_is_refused(tmp_path):
    with pytest.raises(DataError, match=r'there are no features in .*nowhere; run "dvc repro features"'):
        TextRows(tmp_path / "nowhere")
    (tmp_path / "begun").mkdir()
    with pytest.raises(DataError, match="has no manifest"):
        TextRows(tmp_path / "begun")
    (tmp_path / "other").mkdir()
    write_manifest(tmp_path / "other", "valid", "toy", {}, {}, {}, "test")
    with pytest.raises(DataError, match="is of another kind, got 'valid', wanted sidecar"):
        TextRows(tmp_path / "other")


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({}, "is a sidecar, but not one of features"),
        ({"kind": "facets", "slots": SLOTS[:2], "centred": False}, r"names 2 slots, its rows are \[3, 32\]"),
        ({"kind": "facets", "slots": SLOTS, "centred": True}, r"slot_means.npy is missing, which centring"),
    ],
)
def test_a_sidecar_that_does_not_say_what_its_rows_are_is_refused(tmp_path, config, fault):
    with pytest.raises(DataError, match=fault):
        TextRows(write(tmp_path / "odd", made_rows().astype(np.float16), config))


def test_integers_that_are_not_centred_are_refused(tmp_path):
    with pytest.raises(DataError, match="rows of integers that are not centred"):
        TextRows(write(tmp_path / "odd", np.ones((len(KEYS), 3, WIDTH), dtype=np.int8)))


def test_centring_wants_sound_means(plain):
    np.save(plain / SLOT_MEANS, np.zeros((2, WIDTH), dtype=np.float32))
    with pytest.raises(
        DataError, match=r"slot_means.npy: wrong array, got 'float32 \[2, 32\]', wanted float32 \[3, 32"
    ):
        TextRows(plain, center=True)
    np.save(plain / SLOT_MEANS, np.full((3, WIDTH), np.nan, dtype=np.float32))
    with pytest.raises(DataError, match="is not finite"):
        TextRows(plain, center=True)
    (plain / SLOT_MEANS).write_bytes(b"no array")
    with pytest.raises(DataError, match="is not readable as npy"):
        TextRows(plain, center=True)
    (plain / SLOT_MEANS).unlink()
    with pytest.raises(DataError, match=r'slot_means\.npy is missing.*run "dvc repro features"'):
        TextRows(plain, center=True)
    assert cosines(read(plain), made_rows()).min() > 0.9999


def test_a_slot_in_which_all_rows_are_equal_cannot_be_centred(tmp_path):
    rows = made_rows()
    rows[:, 1] = rows[0, 1]
    folder = write(tmp_path / "constant", rows.astype(np.float16), means=means_of(rows))
    with pytest.raises(ConfigError, match=r"slot long/overall .*has the same row for all pairs.*towers.text.slots"):
        TextRows(folder, center=True)
    assert read(folder, slots=("long/object", "raw/*"), center=True).shape == (len(KEYS), 2, WIDTH)


def test_a_centred_row_of_zeros_or_a_slot_of_them_names_the_slot_and_no_new_run(tmp_path):
    stored = np.ones((len(KEYS), 3, WIDTH), dtype=np.int8)
    stored[3, 1] = 0
    config, means = {"kind": "facets", "slots": SLOTS, "centred": True}, means_of(made_rows())
    one = TextRows(write(tmp_path / "one", stored, config, means))
    with pytest.raises(DataError, match=r"pair-3, slot long/overall, .*got 'norm 0.0'.*; leave it out of towers.text"):
        one.rows(np.arange(5))
    means[1] /= np.linalg.norm(means[1])
    with pytest.raises(ConfigError, match=r"slot long/overall of .* has the same row for all pairs.*; leave it out of"):
        TextRows(write(tmp_path / "all", stored, config, means))


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_a_row_without_a_direction_is_refused_by_sample_and_slot(tmp_path, value):
    folder = write(tmp_path / "bad", made_rows().astype(np.float32))
    path = folder / "train/00000.npy"
    stored = np.load(path)
    stored[5, 2] = value
    np.save(path, stored)
    text_rows = TextRows(folder)
    assert text_rows.rows(np.arange(5)).shape == (5, 3, WIDTH)
    with pytest.raises(DataError, match=r"sample pair-5, slot long/object, .*has no direction"):
        text_rows.rows(np.arange(40))


def test_rows_of_another_version_of_the_data_are_refused(plain):
    refuse_other_data(plain, {"raw": "r1", "valid": "v1"})
    fault = r"external teacher cache of another data version \(valid differs\), got 'v1', wanted v2; run"
    with pytest.raises(DataError, match=fault):
        refuse_other_data(plain, {"raw": "r1", "valid": "v2"})


def test_pairs_without_a_row_are_refused(plain):
    with pytest.raises(DataError, match="has no row for 1 of 2 samples"):
        TextRows(plain).join(pa.array(["pair-1", "pair-40"]))


def test_the_encoder_that_made_the_rows_is_known(plain):
    assert TextRows(plain).facts.features == {"kind": "facets", "slots": SLOTS, "centred": False}
    assert json.loads((plain / "manifest.json").read_text())["config"]["stage"]["slots"] == SLOTS
