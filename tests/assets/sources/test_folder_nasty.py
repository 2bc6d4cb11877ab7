"""A folder of everything that goes wrong with files, through ingest and validation: each is accounted for."""

import io
import json
import os
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from assets.config import SECTIONS
from assets.index import read_index
from assets.ingest import ingest
from assets.section import parse, read_yaml
from assets.shards import read_shard
from assets.sources.folder.config import FolderConfig
from assets.validation.run import validate

pytestmark = pytest.mark.slow

NUM_GOOD = 12
ORIENTATION = 0x0112
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><rect width="32" height="64"/></svg>'
PROFILE = Path(__file__).resolve().parents[3] / "profiles" / "smoke.yaml"


def blocks(seed: int) -> Image.Image:
    cells = np.random.default_rng(seed).integers(40, 216, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((48, 32), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def hundred_megapixels() -> bytes:
    """One colour, 12 KB."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 10_000, 10_000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1251) * 10_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def turned() -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    return encoded(blocks(31), exif=exif)


def sixteen_bits() -> bytes:
    across, down = np.meshgrid(np.arange(48), np.arange(32))
    return encoded(Image.fromarray((across * 1200 + down * 300).astype(np.uint16)), "PNG")


ACCEPTED = {
    "jpeg called.png": encoded(blocks(32)),
    "printing.jpg": encoded(blocks(33).convert("CMYK")),
    "deep.png": sixteen_bits(),
    "film.gif": encoded(blocks(34), "GIF", save_all=True, append_images=[blocks(35), blocks(36)], duration=50),
    "turned.jpg": turned(),
    "composed/caf\u00e9.jpg": encoded(blocks(37)),
    "decomposed/cafe\u0301.jpg": encoded(blocks(38)),
    "latin/caf\udce9.jpg": encoded(blocks(39)),
    f"{'long' * 20}/{'name' * 60}.jpg": encoded(blocks(40)),
    "twin.jpg": encoded(blocks(41)),
    "twin.png": encoded(blocks(42), "PNG"),
    "Case.jpg": encoded(blocks(43)),
    "case.jpg": encoded(blocks(44)),
    "case.JPG": encoded(blocks(45)),
}
REJECTED = {
    "empty.jpg": ("no_image", b""),
    "drawing.svg": ("undecodable", SVG),
    "page.jpg": ("undecodable", b"<html>404</html>"),
    "torn.jpg": ("undecodable", encoded(blocks(46))[:-300]),
    "huge.png": ("too_large", hundred_megapixels()),
}
NOT_PAIRS = {"bare.jpg": "empty_caption", "alone.txt": "no_image", "wordless.jpg": "empty_caption"}
LEFT_OUT = {
    "hidden (the name begins with a dot)": 2,
    "links that lead nowhere": 2,
    "links that lead out of the folder": 1,
    "links to folders": 1,
    "neither files nor folders": 1,
    "neither picture nor caption by their suffix": 2,
    "no permission to read them": 1,
}


def put(root: Path, name: str, content: bytes, caption: bytes | None) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    if caption is not None:
        path.with_suffix(".txt").write_bytes(caption)


def fill(root: Path) -> None:
    for number in range(NUM_GOOD):
        put(root, f"good/{number:02d}.jpg", encoded(blocks(number)), f"blocks of pattern {number}".encode())
    for number, (name, content) in enumerate(ACCEPTED.items()):
        put(root, name, content, f"odd but sound {number}".encode())
    for name, (_, content) in REJECTED.items():
        put(root, name, content, f"this one is {name[:4]}".encode())
    put(root, "bare.jpg", encoded(blocks(50)), None)
    put(root, "alone.txt", b"a caption of nothing", None)
    put(root, "wordless.jpg", encoded(blocks(51)), b" \n")
    put(root, "not_utf8.jpg", encoded(blocks(52)), "caf\u00e9".encode("latin-1"))
    put(root, "notes.md", b"# notes", None)
    put(root, "suffixless", encoded(blocks(53)), None)
    put(root, ".hidden.jpg", encoded(blocks(54)), None)
    put(root, ".git/picture.jpg", encoded(blocks(55)), None)
    put(root, "secret.jpg", encoded(blocks(56)), None)
    (root / "secret.jpg").chmod(0)
    put(root.parent, "outside.jpg", encoded(blocks(57)), None)
    (root / "outside.jpg").symlink_to(root.parent / "outside.jpg")
    (root / "itself.jpg").symlink_to("itself.jpg")
    (root / "dangling.jpg").symlink_to("nowhere.jpg")
    (root / "round").symlink_to(".", target_is_directory=True)
    (root / "inside.jpg").symlink_to("good/00.jpg")
    os.mkfifo(root / "pipe.jpg")


def count_entries(root: Path) -> int:
    """Everything but folders one may enter; a hidden folder and a link to one count once."""
    total = 0
    for entry in os.scandir(root):
        enter = entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
        total += count_entries(Path(entry.path)) if enter else 1
    return total


@dataclass(frozen=True)
class Stages:
    """What the stages made of the folder."""

    folder: Path
    raw: Path
    fates: dict[str, str]
    said: list[str]


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> Stages:
    root = tmp_path_factory.mktemp("nasty")
    folder = root / "pictures"
    fill(folder)
    said: list[str] = []
    log = type("Log", (), {"warning": lambda self, form, *values: said.append(form % values)})()
    machine = {"workers": 0, "threads": 1, "device": "cpu", "tensorboard": False}
    sections = {name: {} for name in SECTIONS}
    (dataset,) = read_yaml(PROFILE)["datasets"].values()
    # a third of the files is bad on purpose
    validation = {**dataset["validation"], "limits": dict.fromkeys(dataset["validation"]["limits"], 0.5)}
    data = sections | {"profile": "test", "machine": machine, "datasets": {"toy": {"validation": validation}}}
    (root / "params.yaml").write_text(json.dumps(data))
    train = {"path": str(folder), "role": "train", "captions": "sidecar"}
    config = parse(FolderConfig, {"kind": "folder", "licence": "CC0", "splits": {"train": train}}, "source")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr("assets.sources.folder.source.setup_logging", lambda: log)
        # the superuser may read everything, whatever its mode says
        patch.setattr(os, "access", lambda path, how: bool(Path(path).stat().st_mode & 0o400))
        ingest("toy", config, config.model_dump(mode="json"), 10, root / "raw", root / "work", 0)
        validate("toy", *(root / name for name in ("params.yaml", "raw", "valid", "docs", "plots", "baseline.json")))
    files = {s.key: s.metadata["file"] for shard in sorted((root / "raw").rglob("*.tar")) for s in read_shard(shard)}
    rejects = pd.read_parquet(root / "valid" / "rejects.parquet")
    accepted = pd.read_parquet(root / "valid" / "accepted.parquet")["key"]
    fates = {files[key]: "accepted" for key in accepted} | {files[row.key]: row.reason for row in rejects.itertuples()}
    assert len(fates) == len(accepted) + len(rejects) == len(files)
    return Stages(folder, root / "raw", fates, said)


def test_every_picture_is_accepted_or_rejected_by_name(stages):
    wanted = {f"good/{number:02d}.jpg": "accepted" for number in range(NUM_GOOD)}
    wanted |= {name.replace("\udce9", "\\udce9"): "accepted" for name in ACCEPTED}
    wanted |= {name: reason for name, (reason, _) in REJECTED.items()} | NOT_PAIRS
    # a link to another picture in the folder, without a caption of its own
    wanted |= {"inside.jpg": "empty_caption"}
    assert stages.fates == wanted


def test_what_is_left_out_is_counted_by_reason_on_the_data_card(stages):
    card = (stages.raw / "README.md").read_text()
    found = {why: int(count) for count, why in re.findall(r"^- (\d+) of train left out: (.*)\.$", card, re.MULTILINE)}
    assert found == LEFT_OUT
    assert "1 samples of train incomplete: no picture." in card
    assert "2 samples of train incomplete: no caption." in card


def test_a_caption_that_is_not_utf8_is_left_out_and_said_by_name(stages):
    assert "train: not_utf8.jpg left out, the caption is not UTF-8" in stages.said
    assert any(re.fullmatch(r"train samples \d+ to \d+: 1 left out, the caption is not UTF-8", x) for x in stages.said)


def test_the_counts_add_up_to_the_files_of_the_folder(stages):
    without_caption, shared_captions, alone, not_utf8 = 2, 1, 1, 1
    pictures = len(stages.fates) - alone + not_utf8
    captions = pictures - without_caption - shared_captions + alone
    # case.jpg and case.JPG share their caption as twin.jpg and twin.png do
    captions -= 1
    assert count_entries(stages.folder) == pictures + captions + sum(LEFT_OUT.values())


def test_pictures_go_into_the_shards_as_they_are_and_are_measured_as_shown(stages):
    for shard in sorted(stages.raw.rglob("*.tar")):
        for sample in read_shard(shard):
            if sample.metadata["file"] != "alone.txt":
                name = sample.metadata["file"].replace("\\udce9", "\udce9")
                assert sample.image == (stages.folder / name).read_bytes()
    rows = {row["key"]: row for row in read_index(stages.raw).to_pylist()}
    assert (rows["turned"]["width"], rows["turned"]["height"]) == (32, 48)
    called = next(row for key, row in rows.items() if key.startswith("jpeg-called~"))
    assert (called["extension"], called["width"]) == ("jpg", 48)
