import json
import multiprocessing
import os
import socket
import time
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from open_clip.transformer import VisionTransformer
from safetensors.torch import load_file, save_file

from assets.errors import ConfigError, DataError
from assets.manifest import read_manifest, verify_manifest, write_manifest
from assets.sidecar import Sidecar
from tests.training.captioner.conftest import MACHINE
from training.captioner.config import CaptionerConfig
from training.captioner.model import load_captioner_model
from training.captioner.run import Folders, make_captioned
from training.models.export_files import WEIGHTS_FILE as EXPORT_FILE

# a child has all modules already; importing them takes longer than the toy runs
FORK = multiprocessing.get_context("fork")


def folders(toy_data, here):
    return Folders(*toy_data, None, here / "out", here / "work")


def _as_rank(environment: dict[str, str], config: CaptionerConfig, places: Folders) -> None:
    os.environ.update(environment)
    make_captioned("toy", config, places, MACHINE)


def start(config: CaptionerConfig, places: Folders, **environment: str):
    """Run the stage in a process of its own."""
    child = FORK.Process(target=_as_rank, args=(environment, config, places))
    child.start()
    return child


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_stage_publishes_codes_and_a_caption_of_every_accepted_pair(toy_data, captioner, tmp_path):
    make_captioned("toy", captioner(), folders(toy_data, tmp_path), MACHINE)
    out = tmp_path / "out"
    assert verify_manifest(out) == [] and verify_manifest(out / "codes") == []
    manifest = read_manifest(out, "captioned")
    assert manifest["counts"] == {"pairs": 63, "codes": 24, "steps": 12}
    assert manifest["config"]["stage"]["holdout"]["holdout/caption_loss"] > 0
    codes, captions = Sidecar(out / "codes"), pq.read_table(out / "captions.parquet")
    assert (codes.dtype, codes.row_shape) == (np.uint16, (32,))
    assert captions["key"].to_pylist() == [f"toy-{number:03d}" for number in range(63)]
    assert codes.rows(codes.join(captions["key"].combine_chunks())).max() < 24
    assert all(row["caption"] and row["mean_log_probability"] < 0 > row["likelihood"] for row in captions.to_pylist())
    model, _, _ = load_captioner_model(out / "model")
    assert np.array_equal(np.load(out / "codebook.npy"), model.quantiser.codebook.detach().numpy())
    rows = [json.loads(line) for line in (out / "curves.jsonl").read_text().splitlines()]
    assert len(rows) == 12 and {"train/caption_loss", "train/perplexity"} <= rows[0].keys()
    assert not list((tmp_path / "work" / "captioner" / "toy").iterdir())


def exported(folder, vision, **changes):
    """A model folder with a fresh image tower, and that tower."""
    torch.manual_seed(7)
    sizes = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "heads": 2, "mlp_ratio": 4.0} | changes
    tower = vision(**sizes)
    folder.mkdir()
    save_file({f"visual.{name}": value for name, value in tower.state_dict().items()}, folder / EXPORT_FILE)
    write_manifest(folder, "model", "teacher", {}, {}, {}, "code")
    return tower


def test_the_image_tower_starts_as_that_of_a_run(toy_data, captioner, tmp_path):
    tower = exported(tmp_path / "model", VisionTransformer)
    still = captioner(**{"run": "teacher", "optim.lr": 1e-12})
    make_captioned("toy", still, replace(folders(toy_data, tmp_path), export=tmp_path / "model"), MACHINE)
    model, _, _ = load_captioner_model(tmp_path / "out" / "model")
    torch.testing.assert_close(model.visual.conv1.weight, tower.conv1.weight)
    assert read_manifest(tmp_path / "out", "captioned")["inputs"].keys() == {"raw", "valid", "model"}


def test_an_image_tower_of_another_shape_is_refused(toy_data, captioner, tmp_path):
    exported(tmp_path / "model", VisionTransformer, width=64)
    places = replace(folders(toy_data, tmp_path), export=tmp_path / "model")
    with pytest.raises(
        ConfigError, match=r"class_embedding in the image .*got \[64\], wanted shape \[32\].*or run: none"
    ):
        make_captioned("toy", captioner(run="teacher"), places, MACHINE)


@pytest.mark.slow
def test_a_captioner_learns_to_say_what_it_sees(toy_data, captioner, tmp_path):
    longer = {"samples_seen": 16 * 300, "batch_size": 16}
    make_captioned("toy", captioner(**{"budget": longer, "log_every": 20}), folders(toy_data, tmp_path), MACHINE)
    losses = [json.loads(line)["train/caption_loss"] for line in (tmp_path / "out/curves.jsonl").open()]
    assert losses[-1] < losses[0] / 4
    index = pq.read_table(toy_data[0] / "index.parquet", columns=["key", "caption"]).to_pylist()
    truth = {row["key"]: row["caption"] for row in index}
    found = pq.read_table(tmp_path / "out" / "captions.parquet").to_pylist()
    likely = [row["likelihood"] for row in found]
    assert np.mean(likely) == pytest.approx(-losses[-1], abs=0.3)  # the measure of the loss, on whole images
    right = np.mean([row["caption"].split()[1] == truth[row["key"]].split()[1] for row in found])
    assert right > 0.4  # one colour of eight is right by chance


@pytest.mark.slow
def test_a_captioner_that_is_killed_while_training_and_describing_ends_with_the_same_bytes(
    toy_data, captioner, tmp_path
):
    config = captioner(
        **{
            "budget": {"samples_seen": 480, "batch_size": 16},
            "codebook.update": "average",
            "describe.batch_size": 1,
        }
    )
    make_captioned("toy", config, folders(toy_data, tmp_path / "whole"), MACHINE)
    places = folders(toy_data, tmp_path / "killed")
    for sign in ("*/checkpoints/step-0000001*", "*/captions/00000.parquet"):
        child = start(config, places)
        limit = time.monotonic() + 240
        while not list((places.work / "captioner" / "toy").glob(sign)):
            assert time.monotonic() < limit and child.is_alive()
            time.sleep(0.01)
        child.kill()
        child.join()
    assert not places.out.exists()
    make_captioned("toy", config, places, MACHINE)
    assert contents(places.out) == contents(tmp_path / "whole" / "out")


@pytest.mark.slow
@pytest.mark.parametrize("update", ["gradient", "average"])
def test_two_processes_make_what_one_makes(toy_data, captioner, tmp_path, update):
    # Adam divides tiny gradients by their own size
    config = captioner(**{"codebook.update": update, "optim.eps": 1e-3})
    make_captioned("toy", config, folders(toy_data, tmp_path / "one"), MACHINE)
    places = folders(toy_data, tmp_path / "two")
    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [start(config, places, RANK=str(rank), LOCAL_RANK=str(rank), **together) for rank in range(2)]
    for rank in ranks:
        rank.join(timeout=400)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    one, two = (load_file(tmp_path / who / "out" / "model" / "captioner.safetensors") for who in ("one", "two"))
    for name, value in one.items():
        assert torch.allclose(value.double(), two[name].double(), atol=1e-5, rtol=1e-4), name
    captions = [
        pq.read_table(tmp_path / who / "out" / "captions.parquet")["caption"].to_pylist() for who in ("one", "two")
    ]
    assert captions[0] == captions[1]
    codes = [Sidecar(tmp_path / who / "out" / "codes") for who in ("one", "two")]
    agree = [sidecar.rows(np.arange(63)) for sidecar in codes]
    assert (agree[0] == agree[1]).mean() > 0.99  # rounding may turn a token that lies between two codes


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"holdout.pairs": 63}, "holdout.pairs leaves nothing to train on, got 63"),
        ({"budget": {"samples_seen": 1000, "batch_size": 64}}, "fewer pairs than one batch, got 55"),
    ],
)
def test_a_budget_that_does_not_fit_the_data_is_refused_before_training(toy_data, captioner, tmp_path, changes, fault):
    with pytest.raises(ConfigError, match=fault):
        make_captioned("toy", captioner(**changes), folders(toy_data, tmp_path), MACHINE)
    assert not (tmp_path / "work").exists()


def test_an_unfinished_input_and_a_folder_without_a_captioner_are_refused(toy_data, captioner, tmp_path):
    (tmp_path / "empty").mkdir()
    places = Folders(tmp_path / "empty", toy_data[1], None, tmp_path / "out", tmp_path / "work")
    with pytest.raises(DataError, match="has no manifest"):
        make_captioned("toy", captioner(), places, MACHINE)
    with pytest.raises(DataError, match="holds no captioner"):
        load_captioner_model(tmp_path / "empty")
