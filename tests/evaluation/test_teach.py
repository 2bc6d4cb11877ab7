import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from assets.atomic import write_json
from assets.errors import ConfigError, DataError
from assets.manifest import verify_manifest, version_of, write_manifest
from assets.sidecar import SidecarWriter
from assets.sources.base import Sample
from evaluation import teach as stage
from evaluation import teach_views
from evaluation.__main__ import main
from tests.evaluation.squares import MODEL, run, sample, write_model, write_params, write_valid
from tests.toy_folders import write_shards
from training.data.colour import change_colours
from training.data.loader import StepDataset, ViewPlan
from training.data.order import SampleOrder
from training.data.pairs import load_pairs
from training.data.transforms import SampleDraws
from training.data.views import ViewsConfig
from training.teachers.config import TeacherConfig
from training.teachers.package import read_package
from training.teachers.rows import TeacherRows

SIZES = (5, 6, 4)
REJECTED = "train-0003"
VIEWS = 3
CROP = {"crop_area": [0.15, 0.5], "flip": 0.5}
CACHE = {"views": VIEWS, "seed": 7, "crop": CROP}
ENTRY = {"dataset": "squares", "run": "clip-s0", "ensemble_with": "none", "cache": CACHE, "batch_size": 13}
SIDE = 32


def photo(one: Sample, number: int) -> Sample:
    """The same sample with a large JPEG, which is decoded at a fraction of its size where a crop allows."""
    pixels = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize((320, 240), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return replace(one, image=stream.getvalue(), extension="jpg")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen accepted pairs in three shards, two untrained models and their teachers; captions repeat."""
    root = tmp_path_factory.mktemp("teach")
    numbers = iter(range(sum(SIZES)))
    raw = root / "data/raw/squares"
    shards = [[sample("train", next(numbers), "train") for _ in range(size)] for size in SIZES]
    shards[1] = [photo(one, number) for number, one in enumerate(shards[1])]
    shards[2] = [replace(one, caption=shards[0][place].caption) for place, one in enumerate(shards[2])]
    write_shards(raw, "train", shards)
    write_manifest(raw, "raw", "squares", {}, {"samples": sum(SIZES)}, {}, "0")
    write_valid(root / "data/valid/squares", raw, frozenset({REJECTED}))
    for seed in (0, 1):
        write_model(root / f"models/clip-s{seed}", f"clip-s{seed}", seed)
    second = ENTRY | {"run": "clip-s1", "ensemble_with": "first", "logit_scale": 50}
    runs = {f"clip-s{seed}": run("clip", seed) for seed in (0, 1)}
    write_params(root / "params.yaml", runs, teachers={"first": ENTRY, "both": second})
    return root


@pytest.fixture
def here(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project as working directory."""
    shutil.copytree(project, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def teach(root: Path, name: str = "first", **changes) -> Path:
    """Run the stage and return what it published."""
    data = root / "data"
    config = TeacherConfig.model_validate(ENTRY | changes)
    model = root / "models" / config.run if config.checkpoint is None else None
    other = None if config.ensemble_with == "none" else data / "teachers" / config.ensemble_with
    out = data / "teachers" / name
    folders = stage.Folders(data / "raw/squares", data / "valid/squares", model, other, out, root / "work")
    stage.teach(name, config, folders, root / "params.yaml")
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def pairs_of(root: Path):
    return load_pairs(root / "data/raw/squares", root / "data/valid/squares")


def shown(root: Path, view: int, crop: ViewsConfig, side: int = SIDE):
    """What training shows of all pairs in epoch ``view``, with their seeds."""
    pairs = pairs_of(root)
    plan = ViewPlan({"image": crop}, None, side, seed=CACHE["seed"])
    batch = StepDataset(pairs, SampleOrder(len(pairs), len(pairs), 0), plan)[view]
    order = batch["sample_id"].argsort()
    return batch["image"][order].float() / 255, batch["seed"][order]


def said(model: Path, images: torch.Tensor) -> np.ndarray:
    """What an export says of pictures in [0, 1], by plain open_clip."""
    clip, _, _ = open_clip.create_model_and_transforms(f"local-dir:{model}")
    with torch.no_grad():
        return clip.eval().encode_image((images - 0.5) / 0.5, normalize=True).numpy()


def every(rows: TeacherRows, root: Path, slot: int) -> tuple[np.ndarray, np.ndarray]:
    positions = rows.join(pairs_of(root).keys)
    return rows.rows(positions, np.full(len(positions), slot))


def test_rows_are_what_the_teacher_says_of_the_very_pixels_that_training_shows(here):
    assert main(["teach", "--name", "first"]) == 0
    out = here / "data/teachers/first"
    assert verify_manifest(out) == []
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["kind"] == "teacher" and manifest["counts"] == {"models": 1, "pairs": 14}
    assert manifest["inputs"] == {
        "raw": version_of(here / "data/raw/squares"),
        "valid": version_of(here / "data/valid/squares"),
        "model": version_of(here / "models/clip-s0"),
    }
    package = read_package(out)
    (model,) = package.models
    assert (model.embed_dim, model.image_size, model.facts["name"]) == (16, SIDE, "clip-s0")
    assert model.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)  # the model's own, untrained
    assert not (here / "work/teach/first").exists() or not list((here / "work/teach/first").iterdir())

    rows, crop = TeacherRows(package), ViewsConfig.model_validate(CROP)
    expected = [said(model.folder, shown(here, view, crop)[0]) for view in range(VIEWS)]
    expected.append(said(model.folder, shown(here, 0, ViewsConfig(crop_area=(1.0, 1.0)))[0]))
    for slot, features in enumerate(expected):
        found, _ = every(rows, here, slot)
        np.testing.assert_allclose(found, features, atol=2e-3)
        for other in set(range(VIEWS + 1)) - {slot}:  # a wrong view is not mistaken for the right one
            assert np.abs(found - expected[other]).max(axis=1).max() > 1e-2

    clip, _, _ = open_clip.create_model_and_transforms(f"local-dir:{model.folder}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{model.folder}")
    with torch.no_grad():
        text = clip.eval().encode_text(tokenize(pairs_of(here).captions.to_pylist()), normalize=True).numpy()
    np.testing.assert_allclose(every(rows, here, 0)[1], text, atol=2e-3)


@pytest.mark.parametrize("side", [32, 100])
def test_views_are_those_of_training_to_the_pixel(here, side, monkeypatch):
    pairs = pairs_of(here)
    cache = TeacherConfig.model_validate(ENTRY).cache
    decodes: list[int] = []
    pixels = teach_views.Picture.pixels

    def counted(self, *given, **named):
        decodes.append(1)
        return pixels(self, *given, **named)

    views = teach_views.TeacherViews(pairs, cache, side)
    monkeypatch.setattr(teach_views.Picture, "pixels", counted)
    found = [views[position] for position in range(len(pairs))]
    assert len(decodes) < 2 * len(pairs)  # not once per view
    monkeypatch.undo()
    for view in range(VIEWS):
        images, seeds = shown(here, view, cache.crop, side)
        for position in range(len(pairs)):
            assert torch.equal(found[position][0][view].float() / 255, images[position])
            assert found[position][1][view] == seeds[position]


def test_colours_change_as_in_training_but_not_those_of_the_whole_image(here):
    colour = {"jitter_probability": 1.0, "grey_probability": 0.3}
    crop = ViewsConfig.model_validate(CROP | {"colour": colour})
    out = teach(here, cache=CACHE | {"crop": crop.model_dump()})
    package = read_package(out)
    rows = TeacherRows(package)
    images, seeds = shown(here, 1, crop)
    changed = said(package.models[0].folder, change_colours(images, seeds, 0, crop.colour))
    np.testing.assert_allclose(every(rows, here, 1)[0], changed, atol=2e-3)
    assert np.abs(changed - said(package.models[0].folder, images)).max() > 1e-2
    whole = said(package.models[0].folder, shown(here, 0, ViewsConfig(crop_area=(1.0, 1.0)))[0])
    np.testing.assert_allclose(every(rows, here, VIEWS)[0], whole, atol=2e-3)


def test_equal_captions_are_encoded_once_and_batches_change_nothing_that_matters(here, monkeypatch):
    asked: list[str] = []
    load = stage.load_encoder

    def watched(*given):
        encoder = load(*given)
        encode = encoder.text.encode
        monkeypatch.setattr(encoder.text, "encode", lambda captions: asked.extend(captions) or encode(captions))
        return encoder

    monkeypatch.setattr(stage, "load_encoder", watched)
    one = TeacherRows(read_package(teach(here)))
    assert len(asked) == len(set(asked)) == 11
    image, text = every(one, here, 0)
    np.testing.assert_array_equal(text[10:13], text[0:3])  # the third shard says what the first one says
    assert not np.array_equal(image[10], image[0])
    other = TeacherRows(read_package(teach(here, "other", batch_size=1)))
    np.testing.assert_allclose(every(other, here, 0)[0], image, atol=2e-3)


def test_a_run_that_stops_after_a_shard_goes_on_to_the_same_bytes(here, monkeypatch):
    monkeypatch.setattr(stage, "CHUNK", 5)
    whole = files(teach(here))
    write, written = SidecarWriter.write_shard, []

    def tired(self, name, keys, array):
        if written:
            raise KeyboardInterrupt
        write(self, name, keys, array)
        written.append(name)

    with monkeypatch.context() as patched:
        patched.setattr(SidecarWriter, "write_shard", tired)
        with pytest.raises(KeyboardInterrupt):
            teach(here)
        patched.setattr(
            SidecarWriter, "write_shard", lambda self, *given: (written.append(given[0]), write(self, *given))
        )
        assert files(teach(here)) == whole
    assert written == ["train/00000", "train/00001", "train/00002"]
    assert not list((here / "work/teach/first").iterdir())


def test_a_run_that_stops_before_it_publishes_goes_on_without_the_model(here, monkeypatch):
    whole = files(teach(here))
    with monkeypatch.context() as patched:
        patched.setattr(stage, "publish_folder", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            teach(here)
    monkeypatch.setattr(stage, "load_encoder", lambda *_: pytest.fail("all rows were there"))
    assert files(teach(here)) == whole


@pytest.mark.slow
def test_two_processes_give_the_bytes_of_one(here):
    whole = files(teach(here))
    shutil.rmtree(here / "data/teachers")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launch += ["-m", "evaluation", "teach", "--name", "first"]
    subprocess.run(launch, cwd=here, env=environment, check=True, capture_output=True)
    assert files(here / "data/teachers/first") == whole


def test_an_ensemble_takes_in_models_and_rows_of_another_teacher(here):
    first = TeacherRows(read_package(teach(here)))
    assert main(["teach", "--name", "both"]) == 0
    package = read_package(here / "data/teachers/both")
    both = TeacherRows(package)
    assert both.widths == (16, 16)
    assert [model.facts["name"] for model in package.models] == ["clip-s0", "clip-s1"]
    assert [model.logit_scale for model in package.models] == pytest.approx([1 / 0.07, 50], rel=1e-5)
    alone = TeacherRows(read_package(teach(here, "alone", run="clip-s1")))
    for slot in range(VIEWS + 1):
        for side in (0, 1):
            parts = [every(rows, here, slot)[side] for rows in (first, alone)]
            np.testing.assert_array_equal(every(both, here, slot)[side], np.concatenate(parts, axis=1))
    for number in (0, 1):
        weights = (package.models[number].folder / "open_clip_model.safetensors").read_bytes()
        assert weights == (here / f"models/clip-s{number}/open_clip_model.safetensors").read_bytes()
    shutil.rmtree(here / "data/teachers/first")
    shutil.rmtree(here / "models")
    assert TeacherRows(read_package(here / "data/teachers/both")).views == VIEWS  # nothing outside is needed


def test_without_a_cache_there_are_models_alone(here):
    out = teach(here, cache=None)
    assert {path.name for path in out.iterdir()} == {"models", "teacher.json", "manifest.json"}
    assert read_package(out).cache is None
    two = read_package(teach(here, "both", run="clip-s1", ensemble_with="first", cache=None))
    assert len(two.models) == 2


def test_a_teacher_of_other_views_or_other_data_is_not_taken_in(here, capsys):
    teach(here, cache=CACHE | {"seed": 8})
    with pytest.raises(ConfigError, match=r"teachers/first has another cache.*give all members of an ensemble one"):
        teach(here, "both", run="clip-s1", ensemble_with="first")
    teach(here)
    (here / "data/raw/squares/dataset.json").write_text("{}")
    write_manifest(here / "data/raw/squares", "raw", "squares", {}, {"samples": sum(SIZES)}, {}, "0")
    with pytest.raises(DataError, match="teacher first was made from another version of the data set"):
        teach(here, "both", run="clip-s1", ensemble_with="first")
    with pytest.raises(DataError, match=r'data/teachers/nobody holds no finished teacher; run "dvc repro teach"'):
        teach(here, "both", run="clip-s1", ensemble_with="nobody")
    shutil.rmtree(here / "models/clip-s0")
    assert main(["teach", "--name", "first"]) == 2
    assert "models/clip-s0 has no manifest.json" in capsys.readouterr().err


def test_a_teacher_with_frozen_text_needs_a_cache(here):
    config = {"embed_dim": 16, "vision_cfg": {"image_size": SIDE}, "frozen_text_cfg": {"slots": []}}
    folder = here / "models/clip-s0"
    write_json(folder / "clipfoundry_config.json", {"model_cfg": config, "preprocess_cfg": {}})
    (folder / "open_clip_config.json").unlink()
    with pytest.raises(ConfigError, match=r"clip-s0 has frozen text and no text tower.*give the teacher a cache"):
        teach(here, cache=None)


def test_weights_of_open_clip_become_an_export_that_says_the_same(here, monkeypatch):
    from open_clip import pretrained

    monkeypatch.setenv("HOME", str(here))
    (here / "toy.json").write_text(json.dumps(MODEL))
    open_clip.add_model_config(here / "toy.json")
    release = {
        "url": "https://example.invalid/toy-first.safetensors",
        "mean": (0.4, 0.5, 0.6),
        "std": (0.5, 0.25, 0.2),
        "interpolation": "bilinear",
        "quick_gelu": True,
    }
    monkeypatch.setitem(pretrained._PRETRAINED, "toy", {"first": release})
    cache = here / ".cache/clip"
    cache.mkdir(parents=True)
    weights = cache / "toy-first.safetensors"
    shutil.copy(here / "models/clip-s0/open_clip_model.safetensors", weights)
    checkpoint = {"kind": "open_clip", "model": "toy", "pretrained": "first"}
    package = read_package(teach(here, run="none", checkpoint=checkpoint))

    made = (str(weights), {"force_quick_gelu": True, "image_mean": release["mean"], "image_std": release["std"]})
    by_name, _, _ = open_clip.create_model_and_transforms("toy", made[0], **made[1])
    exported, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{package.models[0].folder}")
    assert tuple(preprocess.transforms[-1].mean) == release["mean"]
    images, _ = shown(here, 1, ViewsConfig.model_validate(CROP))
    images = (images - torch.tensor(release["mean"])[:, None, None]) / torch.tensor(release["std"])[:, None, None]
    with torch.no_grad():
        expected = by_name.eval().encode_image(images, normalize=True)
        torch.testing.assert_close(exported.eval().encode_image(images, normalize=True), expected, atol=0, rtol=0)
    np.testing.assert_allclose(every(TeacherRows(package), here, 1)[0], expected.numpy(), atol=2e-3)
    assert package.models[0].facts["pretrained"] == "first"


def test_the_draws_of_a_view_are_those_of_its_epoch(here):
    pairs, cache = pairs_of(here), TeacherConfig.model_validate(ENTRY).cache
    _, seeds = teach_views.TeacherViews(pairs, cache, SIDE)[2]
    key = pairs.keys[2].as_py()
    assert seeds.tolist() == [SampleDraws(cache.seed, view, key).seed for view in range(VIEWS)]
