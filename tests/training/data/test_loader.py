import subprocess
import sys

import numpy as np
import pytest
import torch

from assets.code_stamp import ROOT
from assets.errors import DataError
from assets.text_rows import TextRows
from tests.training.frozen_text import write_features
from training.data.holdout import take, whole_images
from training.data.loader import StepDataset, ViewPlan, batches
from training.data.order import SampleOrder
from training.data.pairs import load_pairs
from training.data.tokens import CaptionTokenizer
from training.data.views import ViewsConfig

CPU = torch.device("cpu")


def dataset(toy_data, rank=0, world_size=1):
    pairs = load_pairs(*toy_data)
    plan = ViewPlan({"image": ViewsConfig(crop_area=(0.5, 1.0))}, CaptionTokenizer(16).encode, 32, 0)
    return StepDataset(pairs, SampleOrder(len(pairs), 16, 0), plan, rank, world_size)


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_rejected_pairs_are_not_loaded(toy_data):
    assert len(load_pairs(*toy_data)) == 63


@pytest.mark.slow
def test_batches_do_not_depend_on_the_number_of_workers(toy_data):
    alone = list(batches(dataset(toy_data), 0, 6, workers=0, device=CPU))
    helped = list(batches(dataset(toy_data), 0, 6, workers=2, device=CPU))
    assert len(alone) == len(helped) == 6
    assert all(same(one, other) for one, other in zip(alone, helped, strict=True))


@pytest.mark.slow
def test_a_process_that_fails_does_not_wait_for_its_loader(toy_data):
    script = f"""
from pathlib import Path
import torch
from training.data.loader import StepDataset, ViewPlan, batches
from training.data.order import SampleOrder
from training.data.pairs import load_pairs
from training.data.views import ViewsConfig
pairs = load_pairs(Path({str(toy_data[0])!r}), Path({str(toy_data[1])!r}))
plan = ViewPlan({{"image": ViewsConfig(crop_area=(0.5, 1.0))}}, None, 32, 0)
source = batches(StepDataset(pairs, SampleOrder(len(pairs), 16, 0), plan), 0, 6, 1, torch.device("cpu"))
next(source)
raise RuntimeError("a bug")
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.endswith("RuntimeError: a bug\n")


def test_a_loader_started_late_gives_the_same_batches(toy_data):
    whole = list(batches(dataset(toy_data), 0, 6, 0, CPU))
    rest = list(batches(dataset(toy_data), 4, 6, 0, CPU))
    assert all(same(one, other) for one, other in zip(whole[4:], rest, strict=True))


def test_two_ranks_see_the_halves_of_the_global_batch(toy_data):
    whole = dataset(toy_data)[3]
    halves = [dataset(toy_data, rank, 2)[3] for rank in range(2)]
    assert torch.equal(torch.cat([half["image"] for half in halves]), whole["image"])
    assert torch.equal(torch.cat([half["sample_id"] for half in halves]), whole["sample_id"])


def test_pictures_and_captions_belong_together(toy_data):
    batch = dataset(toy_data)[0]
    tokenizer = CaptionTokenizer(16)
    pairs = load_pairs(*toy_data)
    captions = [pairs.captions[i].as_py() for i in batch["sample_id"].tolist()]
    assert torch.equal(batch["text"], tokenizer(captions))
    colour = {"red": (255, 0, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
    checked = 0
    for image, caption in zip(batch["image"], captions, strict=True):
        disc = caption.split()[1]
        if disc in colour:
            assert image[:, 16, 16].tolist() == pytest.approx(colour[disc], abs=30)
            checked += 1
    assert checked


def test_a_damaged_image_names_the_sample_and_the_shard(toy_data, tmp_path):
    import shutil

    raw = tmp_path / "raw"
    shutil.copytree(toy_data[0], raw)
    pairs = load_pairs(raw, toy_data[1])
    shard = raw / pairs.shards[0]
    content = bytearray(shard.read_bytes())
    content[pairs.offset[0] : pairs.offset[0] + pairs.size[0]] = bytes(int(pairs.size[0]))
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"toy-000 in .*00000.tar.*rerun"):
        list(batches(dataset((raw, toy_data[1])), 0, 4, 0, CPU))


def test_frozen_text_comes_with_its_own_picture_and_without_tokens(toy_data, tmp_path):
    rows = write_features(toy_data, tmp_path / "features")
    pairs = load_pairs(*toy_data)
    chosen = TextRows(tmp_path / "features", ("long/*",))
    plan = ViewPlan({"image": ViewsConfig(crop_area=(0.5, 1.0))}, None, 32, 0, text_rows={"text_rows": chosen})
    order = SampleOrder(len(pairs), 16, 0)
    batch = StepDataset(pairs, order, plan)[2]
    assert "text" not in batch and "text_cut" not in batch
    wanted = torch.from_numpy(rows[batch["sample_id"].numpy()][:, 1:]).float()
    torch.testing.assert_close(batch["text_rows"], wanted, atol=1e-3, rtol=0)
    # by key, not by position: other pairs in another order have their own rows
    some = take(pairs, np.array([40, 3, 17, 60]))
    other = StepDataset(some, SampleOrder(4, 4, 0), plan)[0]
    places = np.array([40, 3, 17, 60])[other["sample_id"].numpy()]
    torch.testing.assert_close(other["text_rows"], torch.from_numpy(rows[places][:, 1:]).float(), atol=1e-3, rtol=0)
    shown = whole_images(some, plan)[0]
    first = rows[[40, 3, 17, 60]][shown["sample_id"].numpy()][:, 1:2]
    torch.testing.assert_close(shown["text_rows"], torch.from_numpy(first).float(), atol=1e-3, rtol=0)
