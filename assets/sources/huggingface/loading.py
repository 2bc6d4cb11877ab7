"""Opens data sets of the library ``datasets``: folders it has saved, files and folders it takes, names on its hub.

What comes back is mapped from disk, not read, and a pickled copy of it holds file names only. Files that are not Arrow
are converted once, in the library's cache (HF_HOME). Code from a repository is never run: the library has none left
that would.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import NoReturn

import datasets
import pyarrow as pa
from datasets.exceptions import DatasetGenerationError, DatasetsError

from assets.errors import DataError, message
from assets.sources.huggingface.config import HuggingFaceSplit

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_SAVED = ("state.json", "dataset_dict.json")
_BUILDERS = {".parquet": "parquet", ".arrow": "arrow"}
# RuntimeError is what the library raises for a repository that holds code
_FAILURES = (DatasetsError, OSError, ValueError, KeyError, TypeError, RuntimeError, pa.ArrowException)


@dataclass(frozen=True, slots=True)
class Opened:
    """The rows of a split.

    Attributes:
        rows: All of them, in order.
        folder: Where relative paths of pictures start.
        versions: What names the state of the data besides their content: a hub's revision, a saved fingerprint.
    """

    rows: datasets.Dataset
    folder: Path
    versions: Mapping[str, str]


def open_rows(name: str, split: HuggingFaceSplit) -> Opened:
    """Open what a split names.

    Args:
        name: Name of the split, for errors.
        split: Its settings.

    Raises:
        DataError: There is no such data set, it cannot be read or reached, or it lacks the wanted part.
    """
    place = Path(split.data)
    files = sorted(glob(split.data, recursive=True)) if any(sign in split.data for sign in "*?[") else []  # noqa: PTH207
    local = place.exists() or bool(files)
    if local and split.revision is not None:
        what = f"splits.{name}.revision belongs to names on the hub, and {split.data} is on this disk"
        raise DataError(message(what, fix="leave it out"))
    versions: dict[str, str] = {}
    folder = place if place.is_dir() else place.parent
    saved = any((place / mark).is_file() for mark in _SAVED)
    if saved:
        parts = _saved(name, split)
    elif place.is_dir():
        parts = _built(name, split, split.data)
    elif local:
        parts = _files(name, split, files or [split.data])
    else:
        folder = Path()
        parts = _hub(name, split)
        versions["revision"] = str(split.revision)
    rows, used = _cut(name, split, parts)
    if saved:
        # it lies in the folder; what the library gives other data has their place and time in it
        versions["fingerprint"] = " ".join(parts[part]._fingerprint for part in used)  # pyright: ignore[reportPrivateUsage]
    return Opened(rows, Path(split.image_folder) if split.image_folder else folder, versions)


def _saved(name: str, split: HuggingFaceSplit) -> dict[str, datasets.Dataset]:
    if split.name is not None:
        what = f"splits.{name}.name chooses a configuration, and {split.data}, written by save_to_disk, has none"
        raise DataError(message(what, fix="leave it out"))
    try:
        found = datasets.load_from_disk(split.data, keep_in_memory=False)
    except _FAILURES as error:
        _refuse(name, split, error, "save it again")
    if isinstance(found, datasets.Dataset):
        # what was saved may itself be a part, such as train[:10%]
        return {re.split(r"[\[+]", str(found.split or "train"))[0]: found}
    return {str(part): rows for part, rows in found.items()}


def _files(name: str, split: HuggingFaceSplit, files: list[str]) -> dict[str, datasets.Dataset]:
    suffixes = {Path(file).suffix.lower() for file in files}
    if len(suffixes) != 1 or not suffixes <= set(_BUILDERS):
        what = f"splits.{name}.data matches files of a form that is not read here"
        raise DataError(message(what, sorted(suffixes), " or ".join(_BUILDERS), "convert them, or correct it"))
    return _built(name, split, _BUILDERS[suffixes.pop()], files)


def _hub(name: str, split: HuggingFaceSplit) -> dict[str, datasets.Dataset]:
    if not _HUB_NAME.fullmatch(split.data):
        what = f"{split.data} (splits.{name}.data) does not exist, and is no OWNER/NAME on the hub either"
        raise DataError(message(what, fix="correct it"))
    if split.revision is None:
        what = (
            f"{split.data} (splits.{name}.data) does not exist on this disk, and as a name on the hub lacks a revision"
        )
        fix = "correct the path, or set revision to a commit, as the page of the data set lists them"
        raise DataError(message(what, wanted="40 hex digits", fix=fix))
    return _built(name, split, split.data, revision=split.revision)


def _built(
    name: str, split: HuggingFaceSplit, path: str, files: list[str] | None = None, revision: str | None = None
) -> dict[str, datasets.Dataset]:
    """Let the library convert or download what it has not in its cache, and open that."""
    try:
        builder = datasets.load_dataset_builder(path, split.name, data_files=files, revision=revision)
        # without a network the library falls back on whatever it has of that name, of any revision
        if revision is not None and builder.hash != revision:
            what = f"{split.data} (splits.{name}) cannot be had at its revision, the cache has another"
            raise DataError(message(what, builder.hash, revision, "run it once with a network"))
        builder.download_and_prepare()
        found = builder.as_dataset()
        assert isinstance(found, datasets.DatasetDict)
    except DataError:
        raise
    except _FAILURES as error:
        _refuse(name, split, error, "correct splits.*" if revision is None else _hub_fix(error))
    return {str(part): rows for part, rows in found.items()}


def _hub_fix(error: BaseException) -> str:
    if isinstance(error, ConnectionError):
        return "see to a network (HF_HUB_OFFLINE forbids one), or save the data set where there is one (save_to_disk)"
    if "gated" in str(error) or "cannot be accessed" in str(error):
        return 'correct the name, or agree to its terms on its page and run "hf auth login"'
    return "correct splits.*.data, name or revision"


def _refuse(name: str, split: HuggingFaceSplit, error: BaseException, fix: str) -> NoReturn:
    # the library says of a file it could not convert only that it could not
    cause = error.__cause__ if isinstance(error, DatasetGenerationError) else None
    why = " ".join(str(cause or error).split()) or type(error).__name__
    what = f"{split.data} (splits.{name}.data) cannot be opened ({why})"
    raise DataError(message(what, fix=fix)) from error


def _cut(
    name: str, split: HuggingFaceSplit, parts: Mapping[str, datasets.Dataset]
) -> tuple[datasets.Dataset, list[str]]:
    """Return what ``split`` names of a data set, and the names of the parts it comes from."""
    names = ", ".join(parts)
    if split.split is None:
        if len(parts) != 1:
            what = f"{split.data} has several splits, and splits.{name}.split names none"
            raise DataError(message(what, wanted=f"one of {names}", fix="name one"))
        return next(iter(parts.values())), list(parts)
    try:
        instruction = datasets.ReadInstruction.from_spec(split.split)
        places = instruction.to_absolute({part: len(rows) for part, rows in parts.items()})
        places = [place for place in places if place.from_ < place.to]
        # ranges without a step keep the rows mapped in place; there is no table of indices
        pieces = [parts[place.splitname].select(range(place.from_, place.to)) for place in places]
        if not pieces:
            raise DataError(message(f"splits.{name}.split names no row of {split.data}", split.split, fix="correct it"))
        rows = pieces[0] if len(pieces) == 1 else datasets.concatenate_datasets(pieces)
    except DataError:
        raise
    except ValueError as error:
        what = f"splits.{name}.split does not fit {split.data} ({str(error).rstrip('.')})"
        wanted = f"one of {names}, or a part of one, e.g. {next(iter(parts))}[:10%]"
        raise DataError(message(what, split.split, wanted)) from error
    return rows, [place.splitname for place in places]
