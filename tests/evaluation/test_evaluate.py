import json
import shutil

import numpy as np
import open_clip
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from assets.config import MachineConfig
from assets.errors import ConfigError, DataError
from assets.manifest import read_manifest, verify_manifest
from assets.progress import Stage
from evaluation.encoder import load_encoder
from evaluation.evaluate import evaluate
from evaluation.nested import flatten, rounded
from tests.evaluation.squares import EVALUATION, RUNS, SPLITS, sample, write_model, write_params, write_raw, write_valid

MACHINE = MachineConfig(workers=0, threads=1, device="cpu", tensorboard=False)


def score(root, out, **changes):
    places = {
        "name": "clip-s0",
        "params": root / "params.yaml",
        "model": root / "models/clip-s0",
        "raw": root / "data/raw/squares",
        "valid": root / "data/valid/squares",
        "out": out,
    }
    evaluate(**{**places, **changes})
    return out


def test_a_report_is_complete_and_its_manifest_true(scored):
    folder = scored / "reports/runs/clip-s0"
    assert verify_manifest(folder) == []
    manifest = read_manifest(folder, "report")
    assert manifest["counts"] == {"images_test": 30, "images_test_style": 30, "images_zero_shot": 18}
    assert set(manifest["inputs"]) == {"model", "raw", "valid"}
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics["retrieval"]) == {"in_domain", "held_out_style"}
    assert metrics["zero_shot"]["in_domain"]["num_images"] == 18
    intervals = flatten(json.loads((folder / "intervals.json").read_text()))
    flat = flatten(metrics)
    for name, (low, high) in intervals.items():
        assert 0 <= low <= flat[name] <= high <= 1, name
    table = pq.read_table(folder / "per_class.parquet")
    assert table.column_names == [
        "suite", "class_id", "name", "group", "frequency", "train_count", "num_images", "top1", "top5",
    ]  # fmt: skip
    assert np.mean(table["top1"].to_pylist()) == pytest.approx(flat["zero_shot.in_domain.mean_per_class"], abs=1e-5)


@pytest.mark.slow
def test_the_same_inputs_give_the_same_bytes_whatever_the_machine_section_says(scored, tmp_path):
    machine = {"workers": 2, "threads": 2, "device": "cpu", "tensorboard": False}
    params = write_params(tmp_path / "params.yaml", RUNS, machine=machine)
    again = score(scored, tmp_path / "out", params=params)
    for path in (scored / "reports/runs/clip-s0").iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


def test_scores_agree_with_a_plain_open_clip_loop(scored):
    source = f"local-dir:{scored / 'models/clip-s0'}"
    model, _, preprocess = open_clip.create_model_and_transforms(source)
    tokenizer = open_clip.get_tokenizer(source)
    model.eval()
    import io

    items = [sample("test", i, "retrieval") for i in range(SPLITS["test"][2])]
    with torch.no_grad():
        images = torch.cat(
            [
                model.encode_image(preprocess(Image.open(io.BytesIO(s.image)).convert("RGB"))[None], normalize=True)
                for s in items
            ]
        )
        texts = torch.cat([model.encode_text(tokenizer([s.caption]), normalize=True) for s in items])
    scores = np.rint((images @ texts.T).numpy().astype(np.float64) * 1e6)
    ranks = [int((row > row[i]).sum()) for i, row in enumerate(scores)]
    metrics = json.loads((scored / "reports/runs/clip-s0/metrics.json").read_text())["retrieval"]["in_domain"]
    for k in (1, 5, 10):
        assert metrics[f"image_to_text_r{k}"] == pytest.approx(np.mean([rank < k for rank in ranks]), abs=0.04)


def test_rejected_samples_are_not_scored(squares, tmp_path):
    rejected = frozenset({"test-0003", "zero_shot-0001"})
    valid = write_valid(tmp_path / "valid", squares / "data/raw/squares", rejected)
    out = score(squares, tmp_path / "out", valid=valid)
    counts = read_manifest(out)["counts"]
    assert (counts["images_test"], counts["images_zero_shot"]) == (29, 17)
    text = (out / "retrieval.json").read_text()
    assert "test-0003" not in text


def test_a_class_that_validation_emptied_is_named(squares, tmp_path):
    reds = frozenset(f"zero_shot-{number:04d}" for number in range(0, 18, 6))
    valid = write_valid(tmp_path / "valid", squares / "data/raw/squares", reds)
    with pytest.raises(DataError, match="split zero_shot: 1 of 6 classes have no accepted image, the first is 'red'"):
        score(squares, tmp_path / "out", valid=valid)
    assert not (tmp_path / "out").exists()


def test_folders_of_another_kind_are_refused(squares, tmp_path):
    raw, valid = squares / "data/raw/squares", squares / "data/valid/squares"
    with pytest.raises(DataError, match="is of another kind, got 'raw', wanted model"):
        score(squares, tmp_path / "out", model=raw)
    with pytest.raises(DataError, match="is of another kind, got 'valid', wanted raw"):
        score(squares, tmp_path / "out", raw=valid)
    with pytest.raises(DataError, match="is of another kind, got 'raw', wanted valid"):
        score(squares, tmp_path / "out", valid=raw)
    with pytest.raises(DataError, match=r"has no manifest\.json"):
        score(squares, tmp_path / "out", model=tmp_path / "absent")


def test_validation_of_another_version_of_the_data_is_refused(squares, tmp_path):
    raw = write_raw(tmp_path / "raw", {**SPLITS, "train": ("train", "in_domain", 7)})
    with pytest.raises(DataError, match="validates another version"):
        score(squares, tmp_path / "out", raw=raw)


def test_a_model_folder_without_an_export_is_refused(squares, tmp_path):
    model = write_model(tmp_path / "model")
    (model / "open_clip_model.safetensors").unlink()
    with pytest.raises(DataError, match=r"holds no export: open_clip_model\.safetensors is missing"):
        score(squares, tmp_path / "out", model=model)


def test_an_export_that_open_clip_cannot_load_is_refused(tmp_path):
    model = write_model(tmp_path / "model")
    config = json.loads((model / "open_clip_config.json").read_text())
    config["model_cfg"]["embed_dim"] = 24
    (model / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="does not load in open_clip"):
        load_encoder(model, MACHINE, 8, Stage("test"))


def test_a_diverged_model_is_refused(tmp_path):
    model = write_model(tmp_path / "model")
    tensors = load_file(model / "open_clip_model.safetensors")
    tensors["visual.proj"].fill_(float("nan"))
    save_file(tensors, model / "open_clip_model.safetensors")
    encoder = load_encoder(model, MACHINE, 8, Stage("test"))
    with pytest.raises(DataError, match="not finite"):
        list(encoder.encode_images([torch.zeros(1, 3, 32, 32)]))


def test_short_last_batches_are_kept(squares, tmp_path):
    text = load_encoder(squares / "models/clip-s0", MACHINE, 4, Stage("test")).text
    captions = [f"a thing {i}" for i in range(9)]
    assert text.encode(captions).shape == (9, 16)
    assert np.linalg.norm(text.encode(captions), axis=1) == pytest.approx(np.ones(9), abs=1e-5)


def test_one_evaluator_alone_reads_its_own_splits_only(squares, tmp_path):
    zero_shot = {"zero_shot": EVALUATION["evaluators"]["zero_shot"]}
    params = write_params(tmp_path / "p.yaml", RUNS, evaluation={**EVALUATION, "evaluators": zero_shot})
    out = score(squares, tmp_path / "out", params=params)
    assert read_manifest(out)["counts"] == {"images_zero_shot": 18}
    assert sorted(path.name for path in out.iterdir()) == [
        "intervals.json", "manifest.json", "metrics.json", "per_class.parquet", "per_image.parquet",
    ]  # fmt: skip


def test_two_splits_of_one_suite_are_refused(squares, tmp_path):
    raw = write_raw(tmp_path / "raw", {**SPLITS, "test_b": ("retrieval", "in_domain", 4)})
    valid = write_valid(tmp_path / "valid", raw)
    with pytest.raises(DataError, match="splits test and test_b both have role retrieval"):
        score(squares, tmp_path / "out", raw=raw, valid=valid)


@pytest.mark.parametrize(
    ("evaluators", "text"),
    [
        ({"zero_shoot": {}}, "did you mean 'zero_shot'"),
        ({"zero_shot": {"template": ["a {name}"]}}, "did you mean 'templates'"),
        ({"retrieval": {"examples": -1, "candidates": 4}}, "evaluators.retrieval.examples"),
        ({}, "evaluators"),
    ],
)
def test_wrong_settings_are_named_before_any_work(squares, tmp_path, evaluators, text):
    params = write_params(tmp_path / "p.yaml", RUNS, evaluation={**EVALUATION, "evaluators": evaluators})
    with pytest.raises(ConfigError, match=text):
        score(squares, tmp_path / "out", params=params)


def test_a_failed_evaluation_leaves_the_old_report_alone(scored, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(scored / "reports/runs/clip-s0", out)
    before = (out / "manifest.json").read_bytes()
    with pytest.raises(DataError):
        score(scored, out, model=tmp_path / "absent")
    assert (out / "manifest.json").read_bytes() == before


def test_nested_results_flatten_and_round():
    assert flatten({"a": {"b": {"c": 1}, "d": 2}}) == {"a.b.c": 1, "a.d": 2}
    assert rounded({"a": (0.12345678, 3), "b": "x"}) == {"a": [0.123457, 3], "b": "x"}
