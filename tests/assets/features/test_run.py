import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from assets.config import MachineConfig
from assets.embedding import captions
from assets.embedding.captions import embed_captions
from assets.embedding.sentences import SentenceEncoder
from assets.errors import DataError
from assets.index import index_row, rows_table, write_table
from assets.manifest import verify_manifest, write_manifest
from assets.shards import ShardWriter
from assets.sidecar import Sidecar
from assets.sources.base import Sample

MACHINE = MachineConfig(workers=0, threads=1, device="cpu", tensorboard=False)
CAPTIONS = ["a red apple", "a green apple", "a lorry on a bridge", "a red apple", "two dogs", "a truck on a bridge"]


@pytest.fixture
def data(tmp_path) -> tuple[Path, Path]:
    """Six pairs in two shards, of which the fifth is rejected."""
    raw, valid = tmp_path / "raw", tmp_path / "valid"
    (raw / "train").mkdir(parents=True)
    valid.mkdir()
    rows = []
    for shard in range(2):
        name = f"train/{shard:05d}.tar"
        with (raw / name).open("wb") as stream:
            writer = ShardWriter(stream)
            for number in range(3 * shard, 3 * shard + 3):
                sample = Sample(f"key-{number}", b"no picture", "jpg", CAPTIONS[number], {})
                rows.append(index_row(sample, "train", name, writer.write(sample)))
            writer.close()
    write_table(rows_table(rows), raw / "index.parquet")
    write_manifest(raw, "raw", "toy", {}, {"samples": 6}, {}, "test")
    keys = [f"key-{n}" for n in (0, 1, 2, 3, 5)]
    pq.write_table(pa.table({"key": keys, "split": ["train"] * 5}), valid / "accepted.parquet")
    write_manifest(valid, "valid", "toy", {}, {"accepted": 5}, {}, "test")
    return raw, valid


def rows_of(folder: Path, keys: list[str]) -> np.ndarray:
    sidecar = Sidecar(folder)
    return sidecar.rows(sidecar.join(pa.array(keys))).astype(np.float32)


@pytest.mark.slow
def test_every_accepted_caption_has_a_unit_vector_that_knows_its_meaning(data, tmp_path):
    embed_captions("toy", *data, tmp_path / "out", tmp_path / "work", MACHINE)
    assert verify_manifest(tmp_path / "out") == []
    apple, green, lorry, again, truck = rows_of(tmp_path / "out", [f"key-{n}" for n in (0, 1, 2, 3, 5)])
    assert np.allclose([np.linalg.norm(row) for row in (apple, green, lorry, truck)], 1, atol=1e-3)
    assert np.allclose(apple, again, atol=1e-3)
    assert lorry @ truck > 0.7 > 0.5 > lorry @ apple
    assert len(Sidecar(tmp_path / "out")) == 5


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes(data, tmp_path, monkeypatch):
    embed_captions("toy", *data, tmp_path / "whole", tmp_path / "work", MACHINE)
    calls = []

    class Killed(SentenceEncoder):
        def embed(self, sentences):
            calls.append(len(sentences))
            if len(calls) == 2:
                raise KeyboardInterrupt
            return super().embed(sentences)

    monkeypatch.setattr(captions, "SentenceEncoder", Killed)
    with pytest.raises(KeyboardInterrupt):
        embed_captions("toy", *data, tmp_path / "cut", tmp_path / "work", MACHINE)
    embed_captions("toy", *data, tmp_path / "cut", tmp_path / "work", MACHINE)
    assert calls == [3, 2, 2]
    files = [json.loads((tmp_path / who / "manifest.json").read_text())["files"] for who in ("whole", "cut")]
    assert files[0] == files[1]


@pytest.mark.slow
def test_padding_and_order_do_not_change_a_vector():
    encoder = SentenceEncoder(torch.device("cpu"))
    together = encoder.embed(["a dog", "a very long sentence about a dog that runs along a river", "a dog"])
    alone = encoder.embed(["a dog"])
    assert np.array_equal(together[0], together[2])
    assert np.allclose(together[0], alone[0], atol=2e-3)
    assert encoder.embed([]).shape == (0, 384)


def test_data_without_accepted_pairs_are_refused(data, tmp_path):
    raw, valid = data
    pq.write_table(pa.table({"key": ["other"], "split": ["train"]}), valid / "accepted.parquet")
    with pytest.raises(DataError, match="accepts no pair of split train"):
        embed_captions("toy", raw, valid, tmp_path / "out", tmp_path / "work", MACHINE)
