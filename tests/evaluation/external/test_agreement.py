"""Our scores on a set in clip-benchmark's format are those of the package clip-benchmark."""

import io

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from assets.config import MachineConfig
from assets.progress import Stage
from evaluation.encoder import load_encoder
from evaluation.external.config import ExternalConfig
from evaluation.external.extract import extract_set, plain_pixels
from evaluation.external.layout import read_set
from evaluation.external.score import for_set
from evaluation.features import Batches
from evaluation.intervals import Bootstrap
from evaluation.multi_caption import MultiCaption, MultiCaptionConfig
from evaluation.zero_shot import ZeroShot, ZeroShotConfig
from tests.evaluation.external.sets import write_captions, write_classes, write_scenes
from tests.evaluation.squares import write_model

builder = pytest.importorskip("clip_benchmark.datasets.builder")
classification = pytest.importorskip("clip_benchmark.metrics.zeroshot_classification")
retrieval = pytest.importorskip("clip_benchmark.metrics.zeroshot_retrieval")

MACHINE = MachineConfig(workers=0, threads=1, device="cpu", tensorboard=False)
BOOTSTRAP = Bootstrap(100, 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("agreement") / "model", seed=3)


def ours(model, folder, name, evaluator_class, config):
    stage = Stage("test", quiet=True)
    external = read_set(folder, name, "test")
    encoder = load_encoder(model, MACHINE, 8, stage)
    needs = evaluator_class.needs[external.role]
    wanted = ExternalConfig(evaluators=("any",))
    features, notes = extract_set(external, wanted, needs, encoder, Batches(16, 0), stage)
    assert notes == []
    return evaluator_class(for_set(config, external), BOOTSTRAP).run(features).metrics[name]


def theirs(model, folder):
    """Return model, tokenizer, data set and a loader that keeps what the metrics read of the data set."""
    source = f"local-dir:{model}"
    network, _, preprocess = open_clip.create_model_and_transforms(source)
    network.eval()
    task = "zeroshot_retrieval" if (folder / "dataset_type.txt").exists() else "zeroshot_classification"
    dataset = builder.build_dataset("wds/any", root=str(folder), transform=preprocess, split="test", task=task)
    items = list(dataset)
    kept = torch.utils.data.Subset(items, range(len(items)))
    kept.classes, kept.templates = dataset.classes, dataset.templates
    return network, open_clip.get_tokenizer(source), kept


@pytest.fixture
def single_numbers(monkeypatch):
    """clip-benchmark 1.6.2 calls float() on arrays of one number, which NumPy no longer allows."""
    monkeypatch.setattr(
        classification, "float", lambda value: float(value.item() if hasattr(value, "item") else value), raising=False
    )


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["colours", "scenes"])
def test_zero_shot_scores_are_those_of_clip_benchmark(name, model, scenes, tmp_path, single_numbers):
    folder = scenes[0] if name == "scenes" else write_classes(tmp_path / name)
    network, tokenizer, dataset = theirs(model, folder)
    loader = DataLoader(dataset, batch_size=16)
    wanted = classification.evaluate(
        network, loader, tokenizer, dataset.classes, dataset.templates, device="cpu", amp=False
    )
    found = ours(model, folder, name, ZeroShot, ZeroShotConfig(templates=("{name}",)))
    assert 0 < wanted["acc1"] < wanted["acc5"] < 1  # or the comparison would say little
    assert found["top1"] == pytest.approx(wanted["acc1"], abs=1e-6)
    assert found["top5"] == pytest.approx(wanted["acc5"], abs=1e-6)
    assert found["mean_per_class"] == pytest.approx(wanted["mean_per_class_recall"], abs=1e-6)
    assert not {"head", "mid", "tail"} & set(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pairs", "scene_captions"])
def test_retrieval_scores_are_those_of_clip_benchmark(name, model, scenes, tmp_path):
    folder = scenes[1] if name == "scene_captions" else write_captions(tmp_path / name)
    network, tokenizer, dataset = theirs(model, folder)
    loader = DataLoader(dataset, batch_size=16, collate_fn=builder.image_captions_collate_fn)
    wanted = retrieval.evaluate(network, loader, tokenizer, "cpu", amp=False, recall_k_list=[1, 5, 10])
    found = ours(model, folder, name, MultiCaption, MultiCaptionConfig())
    for k in (1, 5, 10):
        assert found[f"text_to_image_r{k}"] == pytest.approx(wanted[f"image_retrieval_recall@{k}"], abs=1e-6)
        assert found[f"image_to_text_r{k}"] == pytest.approx(wanted[f"text_retrieval_recall@{k}"], abs=1e-6)
    assert found["mean_recall"] == pytest.approx(np.mean(list(wanted.values())), abs=1e-6)
    assert 0 < found["text_to_image_r5"] < 1


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK"])
def test_pictures_are_decoded_as_clip_benchmark_does_it(mode):
    pixels = np.random.default_rng(0).integers(0, 255, (17, 23, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).convert(mode)
    if mode == "RGBA":
        picture.putalpha(60)
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    picture.save(stream, "JPEG" if mode in ("RGB", "L", "CMYK") else "PNG", exif=exif)
    wds = pytest.importorskip("webdataset")
    handler = wds.autodecode.ImageHandler("pil", extensions=["jpg"])
    expected = np.asarray(handler("a.jpg", stream.getvalue()))
    assert np.array_equal(plain_pixels(stream.getvalue()), expected)
