"""A set in the format of clip-benchmark: what its folder holds, checked before any picture is decoded.

``SPLIT/nshards.txt`` tells how many shards ``SPLIT/0.tar`` .. there are. A sample is the members of one name:
KEY.webp, .png, .jpg or .jpeg, and KEY.cls (number of its class) or KEY.txt (one caption a line). ``classnames.txt`` and
``zeroshot_classification_templates.txt`` (with ``{c}`` for the name) describe classes; ``dataset_type.txt`` says
``retrieval`` where there are none.
"""

import re
import string
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from assets.errors import DataError, message
from assets.manifest import MANIFEST, file_digest, value_digest, version_of
from assets.sources.described.labels import plain_name

PICTURES = ("webp", "png", "jpg", "jpeg")
CLASS_NAMES, TEMPLATES, TYPE = "classnames.txt", "zeroshot_classification_templates.txt", "dataset_type.txt"
SHARDS = "nshards.txt"
CLASS_PART = "c"
Role = Literal["zero_shot", "retrieval"]
# the published sets have a few (ImageNet has two cranes); more says that the file is not what it should be
_MOST_COLLIDING = 0.05
_MEMBER = re.compile(r"^(?:\./)?((?:.*/)?[^./][^./]*)\.([^/]*)$")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a picture lies: shard, first byte, bytes."""

    shard: Path
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class ExternalSet:
    """One split of a set; the i-th entries of keys, pictures, and labels or captions belong together.

    Attributes:
        name: Its name.
        folder: Its folder.
        split: The split.
        role: ``zero_shot`` for classes, ``retrieval`` for captions.
        keys: Of the samples, in the order of the shards, [n].
        pictures: Their places, [n].
        labels: Row of each sample's class in ``classes``, [n]; empty for ``retrieval``.
        captions: Of each sample, at least one, [n]; empty for ``zero_shot``.
        classes: Names of the classes, [C].
        templates: Prompts with ``{c}``; empty where the set has none.
        notes: What is odd about it, for the log.
    """

    name: str
    folder: Path
    split: str
    role: Role
    keys: tuple[str, ...]
    pictures: tuple[Place, ...]
    labels: tuple[int, ...]
    captions: tuple[tuple[str, ...], ...]
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    notes: tuple[str, ...]


def read_set(folder: Path, name: str, split: str) -> ExternalSet:
    """Read and check everything but the pictures.

    Args:
        folder: The set.
        name: Its name.
        split: Which split.

    Returns:
        The set.

    Raises:
        DataError: A file is missing or damaged, a sample lacks its picture, class or captions, a class has no image, or
            many classes share their names.
    """
    role = _role(folder)
    samples = _samples(folder, split)
    keys = tuple(key for key, _, _ in samples)
    if twice := [key for key, count in Counter(keys).items() if count > 1]:
        what = f"{folder / split}: {len(twice)} sample names are not unique, the first is {twice[0]}"
        raise DataError(message(what, fix="give every sample a name of its own"))
    pictures = tuple(place for _, place, _ in samples)
    texts = [(key, text) for key, _, text in samples]
    if role == "retrieval":
        captions = _captions(folder, texts)
        return ExternalSet(name, folder, split, role, keys, pictures, (), captions, (), (), ())
    classes = _lines(folder / CLASS_NAMES, "the names of the classes, one a line")
    templates = _templates(folder)
    labels = _labels(folder, texts, classes)
    notes = _name_notes(folder, classes)
    return ExternalSet(name, folder, split, role, keys, pictures, labels, (), classes, templates, notes)


def set_version(folder: Path, split: str) -> str:
    """Return 16 hex digits that name the content of a split: from its manifest, or from all files where it has none.

    Args:
        folder: The set.
        split: The split.
    """
    if (folder / MANIFEST).is_file():
        return version_of(folder)
    paths = [*sorted((folder / split).iterdir()), *(folder / name for name in (CLASS_NAMES, TEMPLATES, TYPE))]
    return value_digest({path.relative_to(folder).as_posix(): file_digest(path) for path in paths if path.is_file()})


def _role(folder: Path) -> Role:
    """Return what kind of set it is; without a file that says otherwise, it has classes."""
    if not folder.is_dir():
        fix = 'put or link the set there, make it with "python -m evaluation external", or take it out of params.yaml'
        raise DataError(message(f"the evaluation set {folder} does not exist", fix=fix))
    path = folder / TYPE
    kind = path.read_text(encoding="utf-8").strip().lower() if path.is_file() else "classification"
    if kind not in ("classification", "retrieval"):
        raise DataError(
            message(f"{path}: sets of this type are not scored", kind, "classification or retrieval", "leave it out")
        )
    return "retrieval" if kind == "retrieval" else "zero_shot"


def _lines(path: Path, what: str) -> tuple[str, ...]:
    """Return the stripped lines of a file that must be there and have no blank ones."""
    if not path.is_file():
        raise DataError(message(f"{path} does not exist", fix=f"write it: {what}"))
    lines = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    if not lines or not all(lines):
        place = f"line {lines.index('') + 1} is blank" if lines else "it is empty"
        raise DataError(message(f"{path}: {place}", fix=f"write {what}"))
    return lines


def _templates(folder: Path) -> tuple[str, ...]:
    path = folder / TEMPLATES
    if not path.is_file():
        return ()
    templates = _lines(path, "one prompt a line with {c} for the class name")
    for template in templates:
        try:
            fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
        except ValueError:
            fields = []
        if set(fields) != {CLASS_PART}:
            raise DataError(message(f"{path}: wrong prompt", template, "{c} for the class name, and no other braces"))
    return templates


def _samples(folder: Path, split: str) -> list[tuple[str, Place, dict[str, bytes]]]:
    """Return name, picture and the members ``cls`` and ``txt`` of every sample, in the order of the shards."""
    path = folder / split / SHARDS
    text = path.read_text(encoding="utf-8").strip() if path.is_file() else None
    if text is None or not text.isdecimal() or not int(text):
        raise DataError(message(f"{path}: wrong or missing", text, "the number of shards, at least 1", "write it"))
    found: list[tuple[str, Place, dict[str, bytes]]] = []
    for number in range(int(text)):
        shard = folder / split / f"{number}.tar"
        try:
            members = _shard_samples(shard)
        except (OSError, tarfile.TarError) as error:
            what = f"{shard} cannot be read ({error}); {path} says there are {text} shards"
            raise DataError(message(what, fix="get or make the set anew")) from error
        if bare := [key for key, (place, _) in members.items() if place is None]:
            what = f"{shard}: {len(bare)} samples have no picture (.{', .'.join(PICTURES)}), the first is {bare[0]}"
            raise DataError(message(what, fix="take out what belongs to no picture, or make the set anew"))
        found += [(key, place, rest) for key, (place, rest) in members.items() if place is not None]
    if not found:
        raise DataError(message(f"{folder / split} holds no sample", fix="get or make the set anew"))
    return found


def _shard_samples(shard: Path) -> dict[str, tuple[Place | None, dict[str, bytes]]]:
    """Return picture and label members of each sample of one shard; members of other kinds are passed over."""
    pictures: dict[str, Place] = {}
    rest: dict[str, dict[str, bytes]] = {}
    with tarfile.open(shard, "r:") as tar:
        for member in tar:
            match = _MEMBER.match(member.name) if member.isfile() else None
            if match is None:
                continue
            key, ending = match[1], match[2].lower()
            if ending in PICTURES:
                rest.setdefault(key, {})
                pictures.setdefault(key, Place(shard, member.offset_data, member.size))
            elif ending in ("cls", "txt"):
                stream = tar.extractfile(member)
                assert stream is not None
                rest.setdefault(key, {})[ending] = stream.read()
    return {key: (pictures.get(key), texts) for key, texts in rest.items()}


def _captions(folder: Path, samples: Sequence[tuple[str, dict[str, bytes]]]) -> tuple[tuple[str, ...], ...]:
    """Return the captions of each sample; blank lines are none."""
    found = [
        tuple(line for line in texts.get("txt", b"").decode("utf-8", "replace").splitlines() if line.strip())
        for _, texts in samples
    ]
    if bare := [key for (key, _), lines in zip(samples, found, strict=True) if not lines]:
        what = f"{folder}: {len(bare)} of {len(samples)} pictures have no caption, the first is {bare[0]}"
        raise DataError(message(what, fix="write KEY.txt with one caption a line for each, or take them out"))
    return tuple(found)


def _labels(folder: Path, samples: Sequence[tuple[str, dict[str, bytes]]], classes: Sequence[str]) -> tuple[int, ...]:
    """Return the class of each sample after checking that samples and classes cover each other."""
    texts = [rest.get("cls", b"").decode("utf-8", "replace").strip() for _, rest in samples]
    valid = [text.isdecimal() and int(text) < len(classes) for text in texts]
    if not all(valid):
        first = valid.index(False)
        what = (
            f"{folder}: {valid.count(False)} of {len(samples)} pictures have no valid class, first {samples[first][0]}"
        )
        wanted = f"KEY.cls with a number from 0 to {len(classes) - 1}, a line of {CLASS_NAMES}"
        raise DataError(message(what, texts[first], wanted, f"mend {CLASS_NAMES}, or make the set anew"))
    labels = tuple(int(text) for text in texts)
    check_cover(folder, labels, classes)
    return labels


def check_cover(folder: Path, labels: Sequence[int], classes: Sequence[str]) -> None:
    """Refuse classes without images, whose accuracy would be nothing.

    Args:
        folder: For the error.
        labels: Class of each image, [n].
        classes: Names of the classes, [C].

    Raises:
        DataError: Some class has no image.
    """
    if empty := sorted(set(range(len(classes))) - set(labels)):
        what = f"{folder}: {len(empty)} of {len(classes)} classes have no image, first number {empty[0]}"
        fix = f"take them out of {CLASS_NAMES} and count KEY.cls anew, or get all pictures of the split"
        raise DataError(message(f"{what} ({classes[empty[0]]!r})", fix=fix))


def _name_notes(folder: Path, classes: Sequence[str]) -> tuple[str, ...]:
    """Note classes that share a name, which no model can tell apart; refuse when there are many."""
    counts = Counter(plain_name(name) for name in classes)
    shared = [name for name in classes if counts[plain_name(name)] > 1]
    if not shared:
        return ()
    what = f"{folder / CLASS_NAMES}: {len(shared)} of {len(classes)} classes share their name with another"
    if len(shared) > _MOST_COLLIDING * len(classes):
        raise DataError(message(what, ", ".join(map(repr, shared[:4])), "names that tell the classes apart", "mend it"))
    names = ", ".join(sorted({plain_name(name) for name in shared}))
    return (f"{what} ({names}): no text tells them apart, and their images count as a draw",)
