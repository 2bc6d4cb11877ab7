import json
import shutil

import numpy as np
import onnx
import open_clip
import pytest
import torch
from onnx import numpy_helper

from assets.errors import ConfigError, DataError
from assets.manifest import read_manifest, verify_manifest, version_of, write_manifest
from assets.text_rows import TextFacts
from evaluation.__main__ import main
from evaluation.compare import compare
from evaluation.export import count_flops, count_parameters
from evaluation.export_config import ExportConfig, load_export_config
from evaluation.latency import interleaved, torch_threads
from evaluation.onnx_export import LIMIT, Tower, load_towers, open_session, verify, write_tower
from evaluation.results import Folders
from tests.evaluation.squares import RUNS, write_params
from tests.evaluation.test_frozen_text_export import write_export
from tests.training.models.test_dense_export import CONFIG, cut
from training.models.build import export_model

EXPORT = {"run": "clip-s0", "batch_sizes": [1, 3], "runs": 3}


@pytest.fixture(scope="module")
def exported(squares, tmp_path_factory):
    """The export of a run, through the command line."""
    root = tmp_path_factory.mktemp("export")
    params = write_params(root / "params.yaml", RUNS, exports={"small": EXPORT})
    model = squares / "models/clip-s0"
    options = ["--params", str(params), "--model", str(model), "--out", str(root / "exports/small")]
    assert main(["export", "--name", "small", *options]) == 0
    return root / "exports/small"


def report(folder):
    return json.loads((folder / "report.json").read_text())


@pytest.mark.slow
def test_an_export_says_what_it_holds_and_costs(exported, squares):
    files = {path.name for path in exported.iterdir()}
    assert files == {"image.onnx", "text.onnx", "preprocess.json", "report.json", "manifest.json"}
    manifest = read_manifest(exported, "export")
    assert manifest["inputs"] == {"model": version_of(squares / "models/clip-s0")}
    assert manifest["config"]["run"] == "clip-s0" and not verify_manifest(exported)
    found = report(exported)
    assert set(found) == {"run", "parameters", "flops", "verification", "latency", "machine", "packages"}
    assert max(found["verification"]["largest_difference"].values()) < LIMIT and found["verification"]["inputs"] == 64
    assert {"torch", "onnx", "onnxruntime"} <= set(found["packages"])
    assert found["machine"]["threads"] == 1 and found["machine"]["cpu"]
    for engine in ("pytorch", "onnxruntime"):
        for side in ("image", "text"):
            cells = found["latency"][engine][side]
            assert set(cells) == {"1", "3"}
            for cell in cells.values():
                assert 0 < cell["lower_quartile_ms"] <= cell["median_ms"] <= cell["upper_quartile_ms"]
                assert cell["runs"] == 3
    preprocess = json.loads((exported / "preprocess.json").read_text())
    assert preprocess["size"] in (32, [32, 32]) and preprocess["mean"] == preprocess["std"] == [0.5] * 3
    assert (preprocess["tokenizer"]["context_length"], preprocess["tokenizer"]["vocabulary"]) == (16, 49408)
    assert preprocess["logit_scale"] == pytest.approx(1 / 0.07, rel=1e-4) and preprocess["logit_bias"] is None


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 4])
def test_the_files_alone_give_the_features_of_plain_open_clip(exported, squares, batch):
    source = f"local-dir:{squares / 'models/clip-s0'}"
    model, _ = open_clip.create_model_from_pretrained(source)
    captions = ["a red square on blue", "a square", "", "a very long caption " * 9][:batch]
    text = open_clip.get_tokenizer(source)(captions)
    image = torch.randn(batch, 3, 32, 32)
    for side, values in (("image", image), ("text", text)):
        (features,) = open_session(exported / f"{side}.onnx", 1).run([f"{side}_features"], {side: values.numpy()})
        with torch.no_grad():
            wanted = getattr(model.eval(), f"encode_{side}")(values, normalize=True)
        np.testing.assert_allclose(features, wanted, atol=1e-5)


@pytest.mark.slow
def test_the_files_name_no_folder_of_this_machine(exported):
    for side in ("image", "text"):
        content = (exported / f"{side}.onnx").read_bytes()
        assert b"site-packages" not in content and b".py" not in content


@pytest.mark.slow
@pytest.mark.parametrize("side", ["image", "text"])
def test_a_file_with_other_weights_is_refused(exported, squares, tmp_path, side):
    tower = load_towers(squares / "models/clip-s0").sides[side]
    assert verify(tower, exported / f"{side}.onnx", 1) < LIMIT
    model = onnx.load(exported / f"{side}.onnx")
    weights = max(
        (item for item in model.graph.initializer if item.data_type == onnx.TensorProto.FLOAT and len(item.dims) == 2),
        key=lambda item: min(item.dims),
    )
    noise = np.random.default_rng(0).normal(0, 0.02, tuple(weights.dims))
    changed = (numpy_helper.to_array(weights) + noise).astype(np.float32)
    weights.CopyFrom(numpy_helper.from_array(changed, weights.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    with pytest.raises(DataError, match=r"wrong\.onnx computes other features than PyTorch.*at most 0\.0001"):
        verify(tower, tmp_path / "wrong.onnx", 1)


@pytest.mark.slow
def test_the_leaderboard_reads_real_exports(exported, scored, tmp_path):
    for run in ("clip-s0", "siglip-s0"):
        shutil.copytree(exported, tmp_path / "exports" / run)
        manifest = json.loads((tmp_path / "exports" / run / "manifest.json").read_text())
        manifest["config"]["run"], manifest["inputs"]["model"] = run, version_of(scored / "models" / run)
        (tmp_path / "exports" / run / "manifest.json").write_text(json.dumps(manifest))
    parents = [scored / name for name in ("reports/runs", "runs", "models", "data/raw", "data/valid", "params.yaml")]
    compare(Folders(*parents, tmp_path / "exports"), tmp_path / "l.json", tmp_path / "l.html")
    page = (tmp_path / "l.html").read_text()
    assert "<h2>Size and speed</h2>" in page and "against latency at batch 3, ms" in page


@pytest.mark.slow
@pytest.mark.parametrize("side", ["image", "text"])
def test_a_model_with_cut_towers_is_exported_too(tmp_path, side):
    _, _, model, config = cut(config=CONFIG)
    (tmp_path / "model").mkdir()
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    export_model(tensors, config, tmp_path / "model")
    tower = load_towers(tmp_path / "model").sides[side]
    write_tower(tower, tmp_path / "tower.onnx")
    assert verify(tower, tmp_path / "tower.onnx", 1) < LIMIT


@pytest.mark.slow
def test_a_resnet_is_exported_too(tmp_path):
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}
    model = open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg={"layers": 1, "width": 8, "heads": 1}).eval()
    tower = Tower(model, "image", (3, 32, 32)).eval()
    write_tower(tower, tmp_path / "image.onnx")
    assert verify(tower, tmp_path / "image.onnx", 1) < LIMIT


@pytest.mark.slow
def test_a_model_with_frozen_text_gives_its_image_side(tmp_path):
    facts = TextFacts((("caption", "overall"),), (0,), 16, False, None, {})
    write_export(tmp_path / "model", facts)
    params = write_params(tmp_path / "params.yaml", RUNS, exports={"flame": {**EXPORT, "batch_sizes": [1]}})
    options = ["--params", str(params), "--model", str(tmp_path / "model"), "--out", str(tmp_path / "out")]
    assert main(["export", "--name", "flame", *options]) == 0
    found = report(tmp_path / "out")
    parts = (found["parameters"], found["flops"], found["verification"]["largest_difference"])
    assert all(part["text"] is None and part["image"] is not None for part in parts)
    assert found["latency"]["onnxruntime"]["text"] is None and found["latency"]["pytorch"]["text"] is None
    assert not (tmp_path / "out/text.onnx").exists()
    assert json.loads((tmp_path / "out/preprocess.json").read_text())["tokenizer"] is None


def test_parameters_and_operations_are_those_of_the_architecture(squares):
    towers = load_towers(squares / "models/clip-s0")
    counts = count_parameters(towers.model, has_text=True)
    image, text = 32, 16  # widths
    layer = lambda width: 12 * width**2 + 13 * width  # noqa: E731
    assert counts["image"] == 3 * 256 * image + image + 5 * image + 4 * image + layer(image) + image * 16
    assert counts["token_embedding"] == 49408 * text
    assert counts["text"] == 16 * text + layer(text) + 2 * text + text * 16
    assert counts["total"] == sum(counts[part] for part in ("image", "text", "token_embedding")) + 1

    def flops(tokens, width):
        return 2 * 12 * tokens * width**2 + 4 * tokens**2 * width + 2 * width * 16

    assert count_flops(towers.sides["image"]) == flops(5, image) + 2 * 4 * 3 * 256 * image
    assert count_flops(towers.sides["text"]) == flops(16, text)


def test_random_texts_end_at_different_places(squares):
    text = load_towers(squares / "models/clip-s0").sides["text"].random_inputs(64, 0)
    ends = text.argmax(dim=1)
    assert text.dtype == torch.int64 and len(ends.unique()) > 5
    assert (text.gather(1, ends[:, None]) == 49407).all() and (text == 49407).sum() == 64


def test_calls_are_timed_in_turn_and_slow_ones_less_often():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    timings = interleaved(calls, runs=4)
    assert "".join(order) == "ab" * 5 + "abba" * 2
    assert {timing.runs for timing in timings.values()} == {4}
    order.clear()
    assert {timing.runs for timing in interleaved(calls, runs=50, cap_seconds=0).values()} == {3}
    assert len(order) == 2 + 6


def test_threads_are_set_for_the_block_only():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"run": "clip-s7"}, "did you mean 'clip-s"),
        ({"run": "clip-s0", "batch_sizes": [1, 1]}, "named twice"),
        ({"run": "clip-s0", "batch_sizes": []}, "batch_sizes"),
        ({"run": "clip-s0", "runs": 2}, "runs"),
    ],
)
def test_wrong_entries_are_refused(tmp_path, entry, words):
    params = write_params(tmp_path / "params.yaml", RUNS, exports={"e": entry})
    with pytest.raises(ConfigError, match=words):
        load_export_config(params, "e")


def test_an_entry_needs_its_run_only():
    config = ExportConfig(run="a")
    assert config.batch_sizes == (1, 64) and config.runs == 30


def test_what_is_no_model_is_refused(tmp_path, capsys):
    params = write_params(tmp_path / "params.yaml", RUNS, exports={"e": EXPORT})
    options = ["--name", "e", "--params", str(params), "--out", str(tmp_path / "out"), "--model"]
    assert main(["export", *options, str(tmp_path / "absent")]) != 0
    assert "missing or unfinished" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    write_manifest(tmp_path / "empty", "model", "e", {}, {}, {}, "0")
    assert main(["export", *options, str(tmp_path / "empty")]) != 0
    assert "holds no model" in capsys.readouterr().err and not (tmp_path / "out").exists()
