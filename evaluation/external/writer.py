"""Writes a set in the format of clip-benchmark, the same bytes for the same pictures."""

import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from assets.atomic import atomic_folder
from assets.code_stamp import code_digest
from assets.manifest import write_manifest
from assets.progress import Stage
from evaluation.external.layout import CLASS_NAMES, PICTURES, SHARDS, TEMPLATES, TYPE

KIND = "external"
_PER_SHARD = 10_000
_SHARD_BYTES = 1_000_000_000


@dataclass(frozen=True, slots=True)
class NewSample:
    """One picture with its class or its captions.

    Attributes:
        picture: A file that is copied as it is, or a decoded picture, which is written without loss.
        label: Number of its class, or None.
        captions: Its captions; empty where it has a class.
    """

    picture: Path | Image.Image
    label: int | None
    captions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NewSet:
    """A set to write.

    Attributes:
        name: Its name.
        split: The split that is written.
        size: How many samples come, for progress.
        samples: The samples, read once.
        classes: Names of the classes; empty for pictures with captions.
        templates: Prompts with ``{c}``; may be empty.
        source: What it is made of, for the manifest.
    """

    name: str
    split: str
    size: int
    samples: Iterable[NewSample]
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    source: dict[str, str]


def write_set(new: NewSet, out: Path, stage: Stage) -> None:
    """Write a set; what stood there is replaced once the new one is complete.

    Args:
        new: The set.
        out: Its folder.
        stage: For progress.
    """
    with atomic_folder(out) as folder:
        (folder / new.split).mkdir()
        if new.classes:
            _write_lines(folder / CLASS_NAMES, new.classes)
        else:
            _write_lines(folder / TYPE, ("retrieval",))
        if new.templates:
            _write_lines(folder / TEMPLATES, new.templates)
        with stage.progress(f"write {new.name}", new.size, "image") as progress:
            shards = _Shards(folder / new.split)
            for sample in new.samples:
                shards.add(sample)
                progress.advance()
        shards.close()
        _write_lines(folder / new.split / SHARDS, (str(shards.number),))
        counts = {"samples": shards.samples, "shards": shards.number, "classes": len(new.classes)}
        write_manifest(folder, KIND, new.name, new.source, counts, {}, code_digest("evaluation.external.writer"))


class _Shards:
    """Tar files 0.tar, 1.tar, .. of bounded size; owners and times are left out, so that bytes do not depend on them.

    Attributes:
        number: Shards begun.
        samples: Samples written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tar: tarfile.TarFile | None = None
        self._left, self._bytes_left = 0, 0
        self.number, self.samples = 0, 0

    def add(self, sample: NewSample) -> None:
        """Write one sample."""
        ending, data = _picture_bytes(sample.picture)
        if self._tar is None or not self._left or self._bytes_left < len(data):
            self.close()
            self._tar = tarfile.open(self._folder / f"{self.number}.tar", "w", format=tarfile.USTAR_FORMAT)
            self.number += 1
            self._left, self._bytes_left = _PER_SHARD, _SHARD_BYTES
        key = f"s{self.samples:07d}"
        if sample.label is None:
            label = "txt", "\n".join(" ".join(caption.split()) for caption in sample.captions)
        else:
            label = "cls", str(sample.label)
        for suffix, content in ((ending, data), (label[0], label[1].encode())):
            member = tarfile.TarInfo(f"{key}.{suffix}")
            member.size = len(content)
            self._tar.addfile(member, io.BytesIO(content))
        self._left, self._bytes_left = self._left - 1, self._bytes_left - len(data)
        self.samples += 1

    def close(self) -> None:
        """End the shard in work."""
        if self._tar is not None:
            self._tar.close()
            self._tar = None


def _picture_bytes(picture: Path | Image.Image) -> tuple[str, bytes]:
    """Return ending and content of a picture's member."""
    if isinstance(picture, Path):
        ending = picture.suffix.lower().removeprefix(".")
        if ending in PICTURES:
            return ending, picture.read_bytes()
        with Image.open(picture) as opened:
            return _lossless(opened)
    return _lossless(picture)


def _lossless(picture: Image.Image) -> tuple[str, bytes]:
    stream = io.BytesIO()
    picture.convert("RGB").save(stream, "WEBP", lossless=True)
    return "webp", stream.getvalue()


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
