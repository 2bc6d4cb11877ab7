"""Everything that is wrong with data from the web, through ingest, validation and a tiny training run."""

import io
import json
import struct
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFile

from assets.config import SECTIONS
from assets.errors import DataError
from assets.index import read_index
from assets.ingest import ingest
from assets.picture import MAX_PIXELS
from assets.section import parse
from assets.sources.webdataset.config import WebDatasetConfig
from assets.validation.run import validate
from training.config import ViewsConfig
from training.data.loader import StepDataset, ViewPlan
from training.data.order import SampleOrder
from training.data.pairs import PairReader, load_pairs
from training.data.tokens import CaptionTokenizer
from training.pretrain import Paths, pretrain

pytestmark = pytest.mark.slow

NUM_GOOD = 20
LONG = "a very long caption about a picture of blocks " * 8
VALIDATION = {
    "image": {"min_side": 16, "max_side": 20_000, "max_aspect_ratio": 3.0, "min_contrast": 2.0},
    "caption": {"min_words": 1, "max_words": 200, "file_names": False, "generic": [], "max_repeats": 0},
    "duplicates": {"exact": True, "near": False, "evaluation": True, "max_distance": 0.06},
    "limits": {"max_rejected_train": 0.5, "warn_rejected_train": 0.5, "max_rejected_evaluation": 0.5},
}


def blocks(seed: int) -> Image.Image:
    cells = np.random.default_rng(seed).integers(40, 216, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((48, 32), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **({"quality": 95} if kind == "JPEG" else {}), **options)
    return stream.getvalue()


def film(seed: int, kind: str) -> bytes:
    return encoded(blocks(seed), kind, save_all=True, append_images=[blocks(seed + 1), blocks(seed + 2)], duration=50)


def huge_png() -> bytes:
    """100 million pixels of one colour in 12 KB."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 10_000, 10_000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1251) * 10_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def sixteen_bits() -> np.ndarray:
    across, down = np.meshgrid(np.arange(48), np.arange(32))
    return (across * 1200 + down * 300).astype(np.uint16)


def odd_but_sound() -> dict[str, tuple[str, bytes, str, np.ndarray, float]]:
    """Key -> suffix, file, caption, the pixels it shows, and by how much they may differ in the mean."""
    grey = np.repeat((sixteen_bits() >> 8).astype(np.uint8)[..., None], 3, axis=2)
    return {
        "cmyk": ("jpg", encoded(blocks(100).convert("CMYK")), "printing colours", np.asarray(blocks(100)), 3.0),
        "deep": ("png", encoded(Image.fromarray(sixteen_bits()), "PNG"), "sixteen bits", grey, 0.0),
        "film": ("png", film(110, "GIF"), "a film called png", np.asarray(blocks(110)), 6.0),
        "movie": ("webp", film(120, "GIF"), "a film called webp", np.asarray(blocks(120)), 6.0),
        "webp": ("webp", film(130, "WEBP"), "a film that is a webp", np.asarray(blocks(130)), 6.0),
        "long": ("jpg", encoded(blocks(140)), LONG, np.asarray(blocks(140)), 3.0),
        "my dog.1": ("jpeg", encoded(blocks(150)) + b"trailer", "odd name", np.asarray(blocks(150)), 3.0),
    }


REJECTED = {
    "no_text": ("empty_caption", ""),
    "no_picture": ("no_image", "0 bytes"),
    "empty": ("no_image", "0 bytes"),
    "torn": ("undecodable", "48x32"),
    "page": ("undecodable", "0x0"),
    "huge": ("too_large", "10000x10000"),
}


def members() -> Iterator[tuple[str, bytes]]:
    for number in range(NUM_GOOD):
        yield f"good{number:02d}.jpg", encoded(blocks(number))
        yield f"good{number:02d}.txt", f"blocks of pattern {number}".encode()
    for key, (suffix, image, caption, _, _) in odd_but_sound().items():
        yield f"{key}.{suffix}", image
        yield f"{key}.txt", caption.encode()
    yield "no_text.jpg", encoded(blocks(200))
    yield "no_picture.txt", b"a caption of nothing"
    bad = {"empty": b"", "torn": encoded(blocks(201))[:-300], "page": b"<html>404</html>"}
    for key, image in bad.items():
        yield f"{key}.jpg", image
        yield f"{key}.txt", f"this one is {key}".encode()
    yield "huge.png", huge_png()
    yield "huge.txt", b"a hundred million pixels"
    yield "notes.json", b"{}"


def write_tar(path: Path, given: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in given:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def source(shards: Path) -> WebDatasetConfig:
    splits = {"train": {"shards": str(shards), "role": "train"}}
    return parse(WebDatasetConfig, {"kind": "webdataset", "licence": "CC0", "splits": splits}, "source")


def run_ingest(root: Path, config: WebDatasetConfig) -> None:
    ingest("toy", config, config.model_dump(mode="json"), 12, root / "raw", root / "work", 0)


@dataclass(frozen=True)
class Stages:
    """What the stages made of the shards."""

    raw: Path
    valid: Path
    rejects: pd.DataFrame
    accepted: list[str]
    largest_decoded: int


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> Iterator[Stages]:
    root = tmp_path_factory.mktemp("bad")
    given = list(members())
    write_tar(root / "00000.tar", given[:30])
    write_tar(root / "00001.tar", given[30:])
    params = root / "params.yaml"
    machine = {"workers": 0, "threads": 1, "device": "cpu", "tensorboard": False}
    datasets = {"toy": {"validation": VALIDATION}}
    data = {name: {} for name in SECTIONS} | {"profile": "test", "machine": machine, "datasets": datasets}
    params.write_text(json.dumps(data))
    decoded = []
    load = ImageFile.ImageFile.load
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(ImageFile.ImageFile, "load", lambda self: decoded.append(self.width * self.height) or load(self))
        run_ingest(root, source(root / "*.tar"))
        validate("toy", params, *(root / name for name in ("raw", "valid", "docs", "plots", "baseline.json")))
    rejects = pd.read_parquet(root / "valid" / "rejects.parquet")
    accepted = pd.read_parquet(root / "valid" / "accepted.parquet")["key"].tolist()
    yield Stages(root / "raw", root / "valid", rejects, accepted, max(decoded))


def test_every_bad_sample_is_rejected_for_a_telling_reason(stages):
    found = {row.key: (row.reason, row.value) for row in stages.rejects.itertuples()}
    assert found == REJECTED


def test_every_sample_is_accepted_rejected_or_counted_on_the_data_card(stages):
    keys = [name.rpartition(".")[0] for name, _ in members()]
    wanted = {key for key in keys if key not in ("notes", "my dog.1")}
    renamed = [key for key in stages.accepted if key.startswith("my-dog-1-")]
    assert len(renamed) == 1
    assert {*stages.accepted, *stages.rejects["key"]} - set(renamed) == wanted
    assert len(stages.accepted) + len(stages.rejects) == len(set(keys)) - 1 == read_index(stages.raw).num_rows
    card = (stages.raw / "README.md").read_text()
    assert "1 samples of train left out: neither picture nor caption (txt)" in card
    assert "1 samples of train incomplete: no caption (txt)" in card


def test_no_stage_decodes_the_huge_picture(stages):
    assert stages.largest_decoded <= MAX_PIXELS


def test_odd_but_sound_pictures_have_the_right_pixels(stages):
    pairs = load_pairs(stages.raw, stages.valid)
    reader, keys = PairReader(pairs), pairs.keys.to_pylist()
    for key, (_, _, caption, pixels, tolerance) in odd_but_sound().items():
        place = next(i for i, found in enumerate(keys) if found == key or found.startswith(key.replace(" ", "-")[:6]))
        found = reader.image(place)
        assert found.shape == pixels.shape, key
        assert np.abs(found - pixels.astype(int)).mean() <= tolerance, key
        assert pairs.captions[place].as_py() == caption.strip()


def test_a_caption_longer_than_the_context_is_cut_and_said(stages):
    pairs = load_pairs(stages.raw, stages.valid)
    plan = ViewPlan({"image": ViewsConfig(crop_area=(0.5, 1.0))}, CaptionTokenizer(16).encode, 32, 0)
    batch = StepDataset(pairs, SampleOrder(len(pairs), len(pairs), 0), plan)[0]
    cut = [pairs.keys[place].as_py() for place in batch["sample_id"][batch["text_cut"]].tolist()]
    assert cut == ["long"]
    assert batch["text"][batch["text_cut"]][0, -1] == 49407


def test_a_training_run_reads_all_accepted_samples(stages, params, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = set()
    read = PairReader.views

    def spied(self, position, *rest):
        seen.add(position)
        return read(self, position, *rest)

    monkeypatch.setattr(PairReader, "views", spied)
    budget = {"samples_seen": 3 * len(stages.accepted), "batch_size": 9}
    paths = Paths(stages.raw, stages.valid, tmp_path / "model", tmp_path / "log")
    pretrain("toy-s0", params(**{"recipes.clip.budget": budget}), paths)
    assert seen == set(range(len(stages.accepted)))
    assert (tmp_path / "model" / "manifest.json").is_file()


def test_a_truncated_tar_is_refused_by_name_before_any_work(tmp_path):
    given = list(members())
    write_tar(tmp_path / "00000.tar", given[:20])
    write_tar(tmp_path / "00001.tar", given[20:40])
    whole = (tmp_path / "00001.tar").read_bytes()
    (tmp_path / "00001.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"00001\.tar ends .*wanted a whole, uncompressed tar; .*make it again"):
        run_ingest(tmp_path, source(tmp_path / "*.tar"))
    assert not (tmp_path / "raw").exists()
    assert not list(tmp_path.rglob("work/**/*.tar"))
