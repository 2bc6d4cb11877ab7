"""The folder ``models/N`` and its file ``models/N.dvc``: DVC keeps every champion, as it keeps every output."""

import os
import shutil
from pathlib import Path
from typing import Any

from assets.atomic import atomic_folder, write_text
from assets.errors import DataError, message
from assets.manifest import MANIFEST, verify_manifest, version_of
from assets.section import read_yaml
from evaluation.promotion.champions import ChampionVersion
from pipelines.calls import dvc, try_dvc

MODELS = Path("models")


def dvc_file(name: str) -> str:
    """Return the path of the file by which DVC knows the champion, relative to the project."""
    return f"{MODELS.as_posix()}/{name}.dvc"


def holds(folder: Path, model: str) -> bool:
    """Whether a finished folder is this version of a model."""
    return (folder / MANIFEST).is_file() and version_of(folder) == model


def check_whole(folder: Path) -> None:
    """Compare every file of a model with its manifest.

    Raises:
        DataError: One is missing, extra or damaged.
    """
    if faults := verify_manifest(folder):
        raise DataError(message(f"{folder} is damaged: {faults[0]}", fix="make it anew with dvc repro --force"))


def copy_model(root: Path, run: str, name: str, model: str) -> None:
    """Make ``models/NAME`` of the model of a run, sharing its bytes on disk.

    Args:
        root: The project.
        run: The run.
        name: The champion.
        model: The version that the run's model must have.

    Raises:
        DataError: The model is damaged, or was replaced while it was copied.
    """
    source, target = root / MODELS / run, root / MODELS / name
    if holds(target, model) and not verify_manifest(target):
        return
    with atomic_folder(target) as folder:
        for path in sorted(source.rglob("*")):
            if path.is_file():
                place = folder / path.relative_to(source)
                place.parent.mkdir(parents=True, exist_ok=True)
                _link(path, place)
        check_whole(folder)
        if not holds(folder, model):
            raise DataError(message(f"{source} was replaced just now", fix="run the pipeline again, then promote"))


def _link(source: Path, target: Path) -> None:
    try:
        # DVC may have made the file a symbolic link into its cache
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def add_to_dvc(root: Path, name: str) -> dict[str, Any]:
    """Put the champion into DVC's cache and write ``models/NAME.dvc``.

    Returns:
        ``md5``, ``size`` and ``files``: what finds this folder in any cache for good.
    """
    dvc(root, "add", "--quiet", f"{MODELS.as_posix()}/{name}")
    out = read_yaml(root / dvc_file(name))["outs"][0]
    return {"md5": out["md5"], "size": out["size"], "files": out["nfiles"]}


def check_restorable(root: Path, name: str, entry: ChampionVersion) -> None:
    """Refuse a version that could only come from a store where there is none to ask.

    Raises:
        DataError: The cache of this clone does not have it.
    """
    if not _in_cache(root, entry.md5):
        raise DataError(
            message(
                f"version {entry.version} of {name} is not in the cache of this clone",
                fix=f'fetch it with "dvc fetch" at the git tag {entry.tag}, or name a bucket in promotions.{name}',
            )
        )


def restore(root: Path, name: str, entry: ChampionVersion, remote: bool) -> None:
    """Bring back a version that DVC knows, from its cache or the store.

    Args:
        root: The project.
        name: The champion.
        entry: The version.
        remote: Whether the store may be asked for it.

    Raises:
        DataError: Neither has it, or what came is another model.
    """
    file, folder = root / dvc_file(name), root / MODELS / name
    fields = (f"md5: {entry.md5}", f"size: {entry.size}", f"nfiles: {entry.files}", "hash: md5", f"path: {name}")
    text = "outs:\n- " + "\n  ".join(fields) + "\n"
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        write_text(file, text)
    if holds(folder, entry.model) and not verify_manifest(folder):
        return
    checkout = ("checkout", "--quiet", "--force", dvc_file(name))
    if not remote:
        dvc(root, *checkout)
    elif not (_in_cache(root, entry.md5) and try_dvc(root, *checkout) == 0):
        dvc(root, "pull", "--force", dvc_file(name))
    check_whole(folder)
    if not holds(folder, entry.model):
        raise DataError(
            message(
                f"{folder}: DVC gave another model than champions/{name}.json says", version_of(folder), entry.model
            )
        )


def _in_cache(root: Path, md5: str) -> bool:
    """Whether DVC's own cache lists the folder; with a cache elsewhere DVC itself must say so."""
    cache = root / ".dvc/cache/files/md5"
    return not cache.is_dir() or (cache / md5[:2] / md5[2:]).is_file()
