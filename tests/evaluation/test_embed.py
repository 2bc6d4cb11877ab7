import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from assets.errors import ConfigError, DataError
from assets.manifest import verify_manifest, version_of, write_manifest
from assets.sidecar import Sidecar
from evaluation import embed as stage
from evaluation.__main__ import main
from evaluation.checkpoints import find_model
from evaluation.embed_config import EmbeddingsConfig
from tests.evaluation.squares import run, sample, write_model, write_params, write_valid
from tests.toy_folders import write_shards

SIZES = (5, 9, 4)
REJECTED = "train-0003"
ENTRY = {"dataset": "squares", "run": "scorer", "batch_size": 4}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighteen pairs in three shards, one of them rejected, and an untrained model; captions repeat."""
    root = tmp_path_factory.mktemp("embed")
    numbers = iter(range(sum(SIZES)))
    raw = root / "data/raw/squares"
    shards = [[sample("train", next(numbers), "train") for _ in range(size)] for size in SIZES]
    shards[2] = [replace(one, caption=shards[0][place].caption) for place, one in enumerate(shards[2])]
    write_shards(raw, "train", shards)
    write_manifest(raw, "raw", "squares", {}, {"samples": sum(SIZES)}, {}, "0")
    write_valid(root / "data/valid/squares", raw, frozenset({REJECTED}))
    write_model(root / "models/scorer")
    write_params(root / "params.yaml", {"scorer": run("clip", 0)}, embeddings={"scorer": ENTRY})
    return root


@pytest.fixture
def here(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project as working directory."""
    shutil.copytree(project, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def embed(root: Path, **changes) -> Path:
    """Run the stage and return what it published."""
    data = root / "data"
    config = EmbeddingsConfig.model_validate(ENTRY | changes)
    model = root / "models/scorer" if config.checkpoint is None else None
    out = data / "embeddings/scorer"
    folders = stage.Folders(data / "raw/squares", data / "valid/squares", model, out, root / "work")
    stage.embed("scorer", config, folders, root / "params.yaml")
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_rows_are_what_plain_open_clip_says_and_scores_their_cosine(here):
    assert main(["embed", "--name", "scorer"]) == 0
    out = here / "data/embeddings/scorer"
    assert verify_manifest(out) == []
    sidecar = Sidecar(out)
    assert sidecar.dtype == np.float16 and sidecar.row_shape == (2, 16)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["inputs"]["model"] == version_of(here / "models/scorer")
    assert manifest["config"]["stage"]["dataset"] == "squares"
    assert manifest["config"]["stage"]["model"]["name"] == "a"  # as its own manifest says

    index = pq.read_table(here / "data/raw/squares/index.parquet").to_pylist()
    accepted = [row for row in index if row["key"] != REJECTED]
    scores = pq.read_table(out / "scores.parquet")
    assert scores.column("key").to_pylist() == [row["key"] for row in accepted]

    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{here / 'models/scorer'}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{here / 'models/scorer'}")
    model.eval()
    for place in (0, 6, 16):
        row = accepted[place]
        with (here / "data/raw/squares" / row["shard"]).open("rb") as shard:
            shard.seek(row["image_offset"])
            picture = Image.open(io.BytesIO(shard.read(row["image_size"]))).convert("RGB")
        with torch.no_grad():
            image = model.encode_image(preprocess(picture)[None], normalize=True)[0].numpy()
            text = model.encode_text(tokenize([row["caption"]]), normalize=True)[0].numpy()
        (found,) = sidecar.rows(sidecar.join(scores.column("key").combine_chunks().slice(place, 1)))
        np.testing.assert_allclose(found[0], image, atol=1e-3)
        np.testing.assert_allclose(found[1], text, atol=1e-3)
        assert scores.column("score")[place].as_py() == pytest.approx(float(image @ text), abs=1e-6)


def test_equal_captions_have_equal_rows_and_are_encoded_once(here, monkeypatch):
    asked: list[str] = []
    load = stage.find_model

    def watched(*arguments):
        model = load(*arguments)

        def loaded(*given):
            encoder = model.load(*given)
            encode = encoder.text.encode
            monkeypatch.setattr(encoder.text, "encode", lambda captions: asked.extend(captions) or encode(captions))
            return encoder

        return replace(model, load=loaded)

    monkeypatch.setattr(stage, "find_model", watched)
    sidecar = Sidecar(embed(here))
    assert len(asked) == len(set(asked)) == 14
    keys = pq.read_table(here / "data/embeddings/scorer/scores.parquet").column("key").combine_chunks()
    rows = sidecar.rows(sidecar.join(keys))
    # the first pairs of the third shard say what those of the first one say
    np.testing.assert_array_equal(rows[13:16, 1], rows[0:3, 1])
    assert not np.array_equal(rows[13, 0], rows[0, 0])


def test_batches_and_threads_change_nothing_that_matters(here):
    one = Sidecar(embed(here))
    write_params(here / "params.yaml", {}, machine={"workers": 2, "threads": 2, "device": "cpu", "tensorboard": False})
    before = files(one.folder)
    assert files(embed(here)) == before  # workers and threads change no byte
    other = Sidecar(embed(here, batch_size=3))
    every = one.join(one.keys)
    np.testing.assert_allclose(other.rows(other.join(one.keys)), one.rows(every), atol=2e-3)


def test_a_run_that_stops_after_a_shard_goes_on_to_the_same_bytes(here, monkeypatch):
    monkeypatch.setattr(stage, "CHUNK", 5)
    whole = files(embed(here))
    write, written = stage.SidecarWriter.write_shard, []

    def tired(self, name, keys, array):
        if written:
            raise KeyboardInterrupt
        write(self, name, keys, array)
        written.append(name)

    monkeypatch.setattr(stage.SidecarWriter, "write_shard", tired)
    with pytest.raises(KeyboardInterrupt):
        embed(here)
    monkeypatch.setattr(
        stage.SidecarWriter, "write_shard", lambda self, *given: (written.append(given[0]), write(self, *given))
    )
    assert files(embed(here)) == whole
    assert written == ["train/00000", "train/00001", "train/00002"]
    assert not list((here / "work/embed/scorer").iterdir())


@pytest.mark.slow
def test_a_killed_stage_and_two_processes_give_the_bytes_of_one(here):
    whole = files(embed(here))
    shutil.rmtree(here / "data/embeddings")
    command = [sys.executable, "-m", "evaluation", "embed", "--name", "scorer"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(command, cwd=here, env=environment, stderr=subprocess.DEVNULL)
    while not list(here.glob("work/embed/scorer/*/texts/*.npy")) and running.poll() is None:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()

    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *command[1:]]
    subprocess.run(launch, cwd=here, env=environment, check=True, capture_output=True)

    assert files(here / "data/embeddings/scorer") == whole


def test_a_folder_without_a_manifest_serves_as_checkpoint(here):
    shutil.move(here / "models/scorer", here / "elsewhere")
    (here / "elsewhere/manifest.json").unlink()
    out = embed(here, run="none", checkpoint={"kind": "folder", "path": "elsewhere"})
    assert json.loads((out / "manifest.json").read_text())["config"]["stage"]["model"]["kind"] == "folder"
    (here / "elsewhere/open_clip_config.json").unlink()
    with pytest.raises(
        DataError, match=r"elsewhere holds no model, got 'open_clip_model.safetensors'.*checkpoint.path"
    ):
        embed(here, run="none", checkpoint={"kind": "folder", "path": "elsewhere"})


def test_a_missing_model_and_an_unknown_entry_are_errors_of_the_user(here, capsys):
    shutil.rmtree(here / "models/scorer")
    assert main(["embed", "--name", "scorer"]) == 2
    assert "models/scorer has no manifest.json" in capsys.readouterr().err
    assert main(["embed", "--name", "scorre"]) == 2
    assert "did you mean 'scorer'?" in capsys.readouterr().err


def named(model: str, pretrained: str) -> EmbeddingsConfig:
    checkpoint = {"kind": "open_clip", "model": model, "pretrained": pretrained}
    return EmbeddingsConfig.model_validate(ENTRY | {"run": "none", "checkpoint": checkpoint})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches of open_clip and of the hub, and an architecture that open_clip knows as toy, with one release."""
    from huggingface_hub import constants
    from open_clip import pretrained

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    write_model(tmp_path / "toy")
    config = json.loads((tmp_path / "toy/open_clip_config.json").read_text())["model_cfg"]
    (tmp_path / "toy.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "toy.json")
    released = {
        "first": {"url": "https://example.invalid/toy-first.safetensors", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    }
    monkeypatch.setitem(pretrained._PRETRAINED, "toy", released)
    folder = tmp_path / ".cache/clip"
    folder.mkdir(parents=True)
    return folder


def test_weights_of_open_clip_are_read_from_the_cache_alone(here, cache):
    with pytest.raises(
        ConfigError, match=r"weights first of open_clip's toy are not in the cache.*run once: python -c"
    ):
        find_model(named("toy", "first"), None)
    shutil.copy(cache.parents[1] / "toy/open_clip_model.safetensors", cache / "toy-first.safetensors")
    by_run = Sidecar(embed(here))
    expected = by_run.rows(by_run.join(by_run.keys))
    by_name = Sidecar(embed(here, run="none", checkpoint=named("toy", "first").model_dump()["checkpoint"]))
    found = by_name.rows(by_name.join(by_run.keys))
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_unknown_names_of_open_clip_get_the_nearest_one(cache):
    with pytest.raises(ConfigError, match=r"did you mean 'ViT-B-32'\?"):
        find_model(named("ViTB-32", "openai"), None)
    with pytest.raises(ConfigError, match=r"unknown weights of ViT-B-32 'laion2b' \(did you mean 'laion2b_e16'\?\)"):
        find_model(named("ViT-B-32", "laion2b"), None)
    with pytest.raises(ConfigError, match="are not in the cache of this machine"):
        find_model(named("ViT-B-32", "laion2b_s34b_b79k"), None)
