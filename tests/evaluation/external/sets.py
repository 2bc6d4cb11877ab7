"""Small sets in clip-benchmark's format, written without the importer."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from assets.sources.emoji_scenes.config import EmojiScenesConfig, SplitSizes
from assets.sources.emoji_scenes.source import EmojiScenes

COLOURS = ("red", "green", "blue", "yellow", "white", "purple")
TEMPLATES = ("a picture of {c}.", "a {c} square", "the colour {c}!")


def picture(number: int, form: str = "PNG") -> bytes:
    """A noisy square of one colour on another; no two are alike."""
    rng = np.random.default_rng(number)
    outer, inner = COLOURS[number % 6], COLOURS[(number // 6 + number + 1) % 6]
    pixels = np.array(Image.new("RGB", (48, 40), outer)).astype(int)
    pixels[8:30, 10:36] = np.array(Image.new("RGB", (26, 22), inner))
    pixels = np.clip(pixels + rng.integers(-90, 90, (10, 12, 3)).repeat(4, 0).repeat(4, 1), 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


def captions(number: int) -> list[str]:
    """From 2 to 4 captions that no other picture has."""
    colour = COLOURS[number % 6]
    return [
        f"{colour} number {number}",
        f"picture {number} shows {colour} around a square",
        f"a square, {number} by {number + 1}",
        f"{number} {number} {colour}",
    ][: 2 + number % 3]


def write_shard(path: Path, members: list[tuple[str, bytes]]) -> None:
    """Write one tar file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def write_classes(
    folder: Path, members: list[list[tuple[str, bytes]]] | None = None, classes: tuple[str, ...] = COLOURS
) -> Path:
    """Write a set with classes; two shards, PNG and JPEG, unless members are given."""
    if members is None:
        forms = ("png", "jpg")
        items = [
            [(f"s{n:07d}.{forms[n % 2]}", picture(n, ("PNG", "JPEG")[n % 2])), (f"s{n:07d}.cls", str(n % 6).encode())]
            for n in range(40)
        ]
        members = [[one for item in part for one in item] for part in (items[:25], items[25:])]
    for number, shard in enumerate(members):
        write_shard(folder / "test" / f"{number}.tar", shard)
    (folder / "test/nshards.txt").write_text(f"{len(members)}\n")
    (folder / "classnames.txt").write_text("".join(f"{name}\n" for name in classes))
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(TEMPLATES) + "\n")
    return folder


def write_scenes(root: Path) -> tuple[Path, Path]:
    """Write emoji scenes as a set with classes and as a set with two captions per picture."""
    values = {"train": 1, "test": 60, "test_style": 0, "test_pairs": 0}
    sizes = SplitSizes(**values, zero_shot_per_class=6, zero_shot_style_per_class=0)
    config = EmojiScenesConfig(
        kind="emoji_scenes", seed=7, image_size=64, num_concepts=60, num_classes=12, sizes=sizes, noise_share=0.0
    )
    source = EmojiScenes(config)
    labelled: list[tuple[str, bytes]] = []
    for sample in source.samples("zero_shot", 0, 72):
        label = str(sample.metadata["class_id"]).encode()
        labelled += [(f"{sample.key}.{sample.extension}", sample.image), (f"{sample.key}.cls", label)]
    told: list[tuple[str, bytes]] = []
    for sample in source.samples("test", 0, 60):
        texts = f"{sample.caption}\n{sample.metadata['captions']['long']}".encode()
        told += [(f"{sample.key}.{sample.extension}", sample.image), (f"{sample.key}.txt", texts)]
    names = tuple(facts.name for facts in source.classes({}))
    return write_classes(root / "scenes", [labelled], names), write_captions(root / "scene_captions", told)


def write_captions(folder: Path, members: list[tuple[str, bytes]] | None = None) -> Path:
    """Write a set with captions; 40 pictures with 2 to 4 each unless members are given."""
    if members is None:
        members = []
        for n in range(40):
            members += [(f"s{n:07d}.jpeg", picture(n, "JPEG")), (f"s{n:07d}.txt", "\n".join(captions(n)).encode())]
    write_shard(folder / "test/0.tar", members)
    (folder / "test/nshards.txt").write_text("1")
    (folder / "dataset_type.txt").write_text("retrieval\n")
    return folder
