"""``python -m evaluation external``: bring a public set, or a folder of class folders, into clip-benchmark's format."""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from assets.errors import ConfigError, DataError, message
from assets.progress import Stage
from assets.section import unknown
from assets.sources.described.labels import plain_name
from evaluation.external.config import EXTERNAL
from evaluation.external.presets import PRESETS, Preset
from evaluation.external.writer import NewSample, NewSet, write_set

_PACKAGE = "clip_benchmark"
_PLAIN_TEMPLATE = "a photo of a {c}."
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True, slots=True)
class Order:
    """What to import.

    Attributes:
        preset: Key of ``PRESETS``, or None for a plain folder.
        root: Where its files lie.
        language: For presets in several languages.
        out: The folder to write; None for ``data/external/NAME``.
    """

    preset: str | None
    root: Path
    language: str | None = None
    out: Path | None = None


def list_presets() -> str:
    """Return what there is: one line per preset with its source."""
    lines: list[str] = []
    for name, preset in sorted(PRESETS.items()):
        places = ", ".join(preset.places) or "class folders"
        lines.append(f"{name}: wants {places}; {preset.hint}")
    return "\n".join(lines)


def import_set(order: Order) -> Path:
    """Write one set.

    Args:
        order: What to import.

    Returns:
        The folder that was written.

    Raises:
        ConfigError: An unknown preset or language, or a package is missing.
        DataError: Its files are missing, or do not fit together.
    """
    new = _folder_set(order.root) if order.preset is None else _preset_set(order, order.preset)
    out = order.out or EXTERNAL / new.name
    with Stage(f"external@{new.name}") as stage:
        write_set(new, out, stage)
    return out


def _preset_set(order: Order, name: str) -> NewSet:
    if name not in PRESETS:
        raise ConfigError(f"--preset: {unknown(name, list(PRESETS), 'set')}")
    preset = PRESETS[name]
    language = _language(order, preset)
    if preset.dataset:
        _check_packages(name, preset)
    _check_places(order.root, name, preset)
    called = name if language is None else f"{name}_{language}"
    source = {"preset": name, "language": language or ""}
    if not preset.dataset:
        samples = _urban_samples(order.root)
        return NewSet(called, "test", len(samples), samples, (), (), source)
    dataset = _build(order.root, name, preset, language)
    classes = tuple(str(text).strip() for text in dataset.classes) if preset.reader == "classes" else ()
    templates = tuple(str(text).strip() for text in dataset.templates) if classes else ()
    if classes and (files := _files(dataset)):
        labels = {label for _, label in files}
        if len(labels) != len(classes):
            what = f"{order.root}: {name} has {len(classes)} classes"
            raise DataError(message(what, f"{len(labels)} with pictures", "all", f"get the whole set: {preset.hint}"))
        plain = [NewSample(path, label, ()) for path, label in files]
        return NewSet(called, "test", len(plain), plain, classes, templates, source)
    return NewSet(called, "test", _length(dataset), _samples(dataset, bool(classes)), classes, templates, source)


def _language(order: Order, preset: Preset) -> str | None:
    """Return the language wanted, after checking that the set has it."""
    if order.language is None and not preset.languages:
        return None
    if order.language not in preset.languages:
        known = f"one of {', '.join(preset.languages)}" if preset.languages else "none, the set has one language"
        raise ConfigError(
            message(f"--language of {order.preset}", order.language or "nothing", known, "choose another")
        )
    return order.language


def _check_packages(name: str, preset: Preset) -> None:
    for package in (_PACKAGE, *preset.packages):
        if importlib.util.find_spec(package) is None:
            what = f"--preset {name} is read by the package {package}, which is not installed"
            raise ConfigError(message(what, fix=f"pip install {package.replace('_', '-')}"))


def _check_places(root: Path, name: str, preset: Preset) -> None:
    """Refuse before clip-benchmark looks, since it would download what it does not find."""
    absent = [place for place in preset.places if not (root / place).exists()]
    if not root.is_dir() or not any(root.iterdir()):
        raise DataError(message(f"--root {root}: no files for {name}", fix=f"put them there: {preset.hint}"))
    if absent:
        what = f"--root {root} lacks {', '.join(absent)} for {name}"
        raise DataError(message(what, fix=f"put it there: {preset.hint}"))


def _build(root: Path, name: str, preset: Preset, language: str | None) -> Any:
    from clip_benchmark.datasets.builder import build_dataset  # pyright: ignore[reportMissingTypeStubs]

    task = "zeroshot_classification" if preset.reader == "classes" else "zeroshot_retrieval"
    # labels and prompts of every set are English but for the captions of some
    build: Callable[..., Any] = build_dataset
    try:
        return build(preset.dataset, root=str(root), split="test", download=False, task=task, language=language or "en")
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        what = f"--root {root}: clip-benchmark cannot read {name} ({error})"
        raise DataError(message(what, fix=f"compare with {preset.hint}")) from error


def _files(dataset: Any) -> list[tuple[Path, int]]:
    """Return path and class of every picture where a data set is a list of files, in an order that is its own."""
    if hasattr(dataset, "samples"):
        return [(Path(path), int(label)) for path, label in dataset.samples]
    if hasattr(dataset, "fnames"):  # ImageNetV2 lists files as the disk does
        return [(path, int(path.parent.name)) for path in sorted(map(Path, dataset.fnames))]
    return []


def _length(dataset: Any) -> int:
    return len(dataset) if hasattr(dataset, "__len__") else 0


def _samples(dataset: Any, classes: bool) -> Iterator[NewSample]:
    """Yield what a data set decodes."""
    items = (dataset[row] for row in range(len(dataset))) if hasattr(dataset, "__len__") else iter(dataset)
    for picture, target in items:
        assert isinstance(picture, Image.Image)
        if classes:
            yield NewSample(picture, int(target), ())
        else:
            yield NewSample(picture, None, tuple(str(caption) for caption in target))


def _urban_samples(root: Path) -> list[NewSample]:
    """Read Urban-1k (https://arxiv.org/abs/2403.15378): image/N.jpg and caption/N.txt, one long caption each."""
    pictures = {path.stem: path for path in _pictures(root / "image")}
    captions = {path.stem: path for path in (root / "caption").glob("*.txt")}
    for what, lacking in (("picture", set(captions) - set(pictures)), ("caption", set(pictures) - set(captions))):
        if lacking:
            fault = f"--root {root}: {len(lacking)} pairs have no {what}, the first is {min(lacking)}"
            raise DataError(message(fault, fix="get the whole set, or take these out"))
    texts = {stem: " ".join(path.read_text(encoding="utf-8").split()) for stem, path in captions.items()}
    if blank := sorted(stem for stem, text in texts.items() if not text):
        raise DataError(message(f"--root {root}: {len(blank)} captions are blank, the first is {blank[0]}", fix="mend"))
    order = sorted(pictures, key=lambda stem: (len(stem), stem))  # 2 before 10
    return [NewSample(pictures[stem], None, (texts[stem],)) for stem in order]


def _folder_set(root: Path) -> NewSet:
    """Read a folder with one folder of pictures per class, which is named after the class."""
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    if not folders:
        raise DataError(message(f"--folder {root} has no class folders", wanted="one folder of pictures per class"))
    seen: dict[str, Path] = {}
    samples: list[NewSample] = []
    for label, folder in enumerate(folders):
        if other := seen.get(plain_name(folder.name)):
            what = f"--folder {root}: two folders stand for one class name"
            raise DataError(message(what, f"{other.name} and {folder.name}", fix="join or rename them"))
        seen[plain_name(folder.name)] = folder
        pictures = _pictures(folder)
        if not pictures:
            what = f"--folder {root}: class {folder.name!r} has no picture"
            raise DataError(
                message(what, wanted=f"files ending in {', '.join(_ENDINGS)}", fix="add some, or remove it")
            )
        samples += [NewSample(path, label, ()) for path in pictures]
    classes = tuple(" ".join(folder.name.replace("_", " ").split()) for folder in folders)
    name = "_".join(plain_name(root.resolve().name).replace("-", " ").split())
    return NewSet(name, "test", len(samples), samples, classes, (_PLAIN_TEMPLATE,), {"folder": root.name})


def _pictures(folder: Path) -> Sequence[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _ENDINGS)
