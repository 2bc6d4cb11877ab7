"""What the huggingface source refuses before any work, and what it says then."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from datasets import Array3D, DatasetDict, List, Value
from datasets.exceptions import DatasetNotFoundError

from assets.errors import ConfigError, DataError
from assets.ingest import ingest
from assets.sources.base import open_source
from tests.assets.sources.test_huggingface import JPEGS, TEXTS, all_samples, from_rows, make_config, pairs, saved

REVISION, OTHER = "0123456789" * 4, "9876543210" * 4


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """A cache of the test's own, and no network."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


def refusal(root: Path, **settings) -> str:
    """What ingest says to a train split with these settings; nothing may have been written."""
    config = make_config(settings)
    with pytest.raises(DataError) as refused:
        ingest("mine", config, config.model_dump(mode="json"), 10, root / "raw", root / "work", 0)
    assert not list(root.rglob("*.tar"))
    return str(refused.value)


@pytest.fixture
def two(tmp_path) -> str:
    """A saved data set of two splits."""
    return saved(DatasetDict({"train": pairs(), "test": pairs()}), tmp_path / "two")


def test_an_unknown_column_is_named_with_those_there_are(tmp_path):
    data = saved(pairs(), tmp_path / "set")
    said = refusal(tmp_path, data=data, columns={"caption": "capton"})
    assert said.startswith("splits.train.columns.caption: ")
    assert "unknown column 'capton' (did you mean 'caption'?); valid: caption, image" in said
    assert "unknown column 'picture'" in refusal(
        tmp_path, data=data, columns={"image": "picture", "caption": "caption"}
    )
    assert "columns.key: " in refusal(tmp_path, data=data, columns={"key": "url", "caption": "caption"})


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        (
            {"image": "number", "caption": "caption"},
            r"columns.image: column 'number' .*Value\('float64'\).*wanted Image",
        ),
        ({"image": "deep", "caption": "caption"}, r"columns.image: .*Array3D\(shape=\(3, 5, 7\)"),
        ({"caption": "number"}, "wanted a string or a list of strings"),
        ({"caption": "image"}, "wanted a string or a list of strings"),
        ({"caption": "caption", "key": "number"}, "wanted a string or a whole number"),
    ],
)
def test_a_column_of_another_type_is_refused(tmp_path, columns, wanted):
    number = (Value("float64"), [0.5] * 4)
    deep = (Array3D((3, 5, 7), "uint8"), [np.zeros((3, 5, 7), np.uint8)] * 4)
    data = saved(pairs(number=number, deep=deep), tmp_path / "set")
    assert re.search(wanted, refusal(tmp_path, data=data, columns=columns))


@pytest.mark.parametrize(
    ("split", "wanted"),
    [
        (None, "has several splits, and splits.train.split names none, wanted one of train, test; name one"),
        ("valid", "Unknown split \"valid\". Should be one of ['train', 'test']"),
        ("train[:", "wanted one of train, test, or a part of one, e.g. train[:10%]"),
        ("train[:200%]", "Percent slice boundaries must be > -100 and < 100"),
        ("train[9:]", "names no row of"),
    ],
)
def test_a_part_that_is_not_there_is_refused_with_those_there_are(tmp_path, two, split, wanted):
    assert wanted in refusal(tmp_path, data=two, split=split)


def test_places_that_hold_no_data_set_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no OWNER/NAME on the hub either; correct it" in refusal(tmp_path, data="data/external/nothing")
    assert "as a name on the hub lacks a revision" in refusal(tmp_path, data="owner/name")
    (tmp_path / "notes.txt").write_text("text")
    assert "got ['.txt'], wanted .parquet or .arrow" in refusal(tmp_path, data="notes.txt")
    (tmp_path / "hollow").mkdir()
    assert "hollow (splits.train.data) cannot be opened" in refusal(tmp_path, data="hollow")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    assert "bad.parquet (splits.train.data) cannot be opened (" in refusal(tmp_path, data="bad.parquet")
    assert "'configuration' not found" in refusal(tmp_path, data=make_parquet(tmp_path), name="configuration")


def make_parquet(root: Path) -> str:
    (root / "pq").mkdir()
    pairs().to_parquet(root / "pq/train.parquet")
    return str(root / "pq")


def test_a_damaged_saved_data_set_is_refused(tmp_path, two):
    next(Path(two, "train").glob("*.arrow")).write_bytes(b"nothing")
    assert "save it again" in refusal(tmp_path, data=two, split="train")
    Path(two, "dataset_dict.json").write_text("{")
    assert "save it again" in refusal(tmp_path, data=two, split="train")


def test_settings_of_the_hub_do_not_go_with_data_on_disk(tmp_path, two):
    assert "splits.train.revision belongs to names on the hub" in refusal(tmp_path, data=two, revision=REVISION)
    assert "written by save_to_disk, has none; leave it out" in refusal(tmp_path, data=two, name="default")


def test_code_beside_the_data_is_never_run(tmp_path):
    folder = Path(make_parquet(tmp_path))
    (folder / "pq.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert "scripts are no longer supported" in refusal(tmp_path, data=str(folder))
    assert not (tmp_path / "ran").exists()


def test_pictures_that_are_addresses_are_refused(tmp_path):
    data = saved(pairs(["https://example.org/a.jpg"] * 4, image=Value("string")), tmp_path / "set")
    assert "holds the address 'https://example.org/a.jpg', wanted contents or paths" in refusal(tmp_path, data=data)


def test_rows_without_one_pair_are_refused_with_the_reasons(tmp_path):
    data = saved(pairs(["gone.jpg"] * 4, [*TEXTS[:3], None], Value("string")), tmp_path / "set")
    said = refusal(tmp_path, data=data)
    assert "got '1 with neither picture nor caption, 3 with no picture', wanted pictures with captions" in said


def test_an_array_of_a_wrong_shape_is_refused_when_it_is_met(tmp_path):
    lists = [[[[1, 2]] * 3] * 2] * 4
    source = from_rows(pairs(lists, image=List(List(List(Value("uint8"))))), tmp_path / "set")
    with pytest.raises(DataError, match=r"an array is no picture, got '2x3x2', wanted height x width"):
        all_samples(source)
    ragged = [[[[1, 2, 3]] * 3, [[1, 2, 3]] * 2]] * 4
    source = from_rows(pairs(ragged, image=List(List(List(Value("uint8"))))), tmp_path / "ragged")
    with pytest.raises(DataError, match="is ragged or has gaps"):
        all_samples(source)


@pytest.mark.parametrize(
    ("train", "more", "wanted"),
    [
        ({"columns": {}}, {}, "columns.caption must name the column"),
        ({"columns": {"caption": "c", "label": "l"}}, {}, "no other has it"),
        ({"classes": "names.txt"}, {}, "only a zero_shot split has classes"),
        ({"revision": "main"}, {}, "match pattern"),
        ({"columns": {"caption": "c", "captions": {"de": "g"}}}, {}, "has the language 'de', which languages"),
        ({"columns": {"caption": "c", "imag": "x"}}, {}, "did you mean 'image'"),
        ({}, {"zs": {"data": "x", "role": "zero_shot"}}, "needs columns.label"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(train, more, wanted):
    with pytest.raises(ConfigError, match=wanted):
        make_config({"data": "x", **train}, **more)


def test_without_a_network_a_name_on_the_hub_says_so(tmp_path):
    said = refusal(tmp_path, data="owner/name", revision=REVISION)
    assert said.startswith("owner/name (splits.train.data) cannot be opened (Couldn't reach 'owner/name' on the Hub")
    assert said.endswith("save the data set where there is one (save_to_disk)")


def test_terms_that_were_not_agreed_to_are_named(tmp_path, monkeypatch):
    def gated(*arguments, **settings):
        raise DatasetNotFoundError("Dataset 'owner/name' is a gated dataset on the Hub.")

    monkeypatch.setattr("datasets.load_dataset_builder", gated)
    said = refusal(tmp_path, data="owner/name", revision=REVISION)
    assert "is a gated dataset on the Hub." in said and 'run "hf auth login"' in said


def cached(root: Path, revision: str) -> None:
    """What a download of owner/name at a revision leaves in the cache."""
    folder = root / f"cache/owner___name/default/0.0.0/{revision}"
    rows = pairs()
    saved(rows, root / "source")
    folder.mkdir(parents=True)
    (root / "source/data-00000-of-00001.arrow").rename(folder / "name-train.arrow")
    splits = {"train": {"name": "train", "num_bytes": 1, "num_examples": 4, "dataset_name": "name"}}
    facts = json.loads((root / "source/dataset_info.json").read_text())
    facts |= {"builder_name": "parquet", "dataset_name": "name", "config_name": "default", "splits": splits}
    facts["version"] = {"version_str": "0.0.0", "major": 0, "minor": 0, "patch": 0}
    (folder / "dataset_info.json").write_text(json.dumps(facts))


def test_what_the_cache_has_of_the_hub_is_used_at_the_revision_that_is_pinned(tmp_path):
    cached(tmp_path, REVISION)
    source = open_source(make_config({"data": "owner/name", "revision": REVISION}))
    assert [(sample.caption, sample.image) for sample in all_samples(source)] == list(zip(TEXTS, JPEGS, strict=True))
    assert source.about().inputs["revision of train"] == REVISION


def test_another_revision_in_the_cache_is_not_taken_for_the_pinned_one(tmp_path):
    cached(tmp_path, OTHER)
    said = refusal(tmp_path, data="owner/name", revision=REVISION)
    assert f"cannot be had at its revision, the cache has another, got '{OTHER}', wanted {REVISION}" in said
