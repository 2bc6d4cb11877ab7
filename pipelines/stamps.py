"""``python -m pipelines stamps``: one file per stage program that names the code the stage reaches.

A stage of dvc.yaml depends on its stamp, so that an edit reruns the stages it concerns and no others. Python files are
followed by their imports (``assets/code_stamp.py``); templates and tables that lie beside them count as bytes. Some
stamps also name a file that may be missing, as a dependency of DVC may not: that of a validation its baseline, that of
an ingestion the accepted deliveries.
"""

import hashlib
import importlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from assets.atomic import write_json
from assets.code_stamp import ROOT, closure
from assets.errors import ConfigError, message
from assets.manifest import file_digest, value_digest
from assets.section import read_yaml, unknown

BASELINES, BATCHES = "baselines", "batches"
_NOT_RESOURCES = (".py", ".pyc", ".pyi", ".md")
_VALIDATE, _INGEST = "validate-", "ingest-"
_NOTHING = "none"
_PLAIN = (
    ("features", "features", "assets.features.run"),
    ("embeddings", "embed", "evaluation.embed"),
    ("captioners", "captioner", "training.captioner.run"),
    ("concepts", "concepts", "assets.concepts.run"),
    ("concepts", "concept_report", "evaluation.concepts.report"),
    ("policies", "reduce", "assets.reduction.run"),
    ("teachers", "teach", "evaluation.teach"),
    ("exports", "export", "evaluation.export"),
    ("indexes", "index", "evaluation.words.build"),
    ("studies", "study", "evaluation.studies.run"),
)
"""Section, a stage of its entries, and the module of all of them."""


def entry_modules(params: Mapping[str, Any], where: Path) -> dict[str, list[str]]:
    """Name the entry modules of every stamp.

    Args:
        params: The sections of params.yaml whose entries are stages.
        where: The file they come from, for errors.

    Returns:
        Stamp name, e.g. ``"pretrain-clip"`` -> dotted module names.

    Raises:
        ConfigError: A kind is missing or not in its table.
    """
    sources = _table("assets.sources", "SOURCES")
    methods = _table("training.methods", "METHODS")
    evaluators = _table("evaluation", "EVALUATORS")
    entries = {
        "evaluate": ["evaluation.evaluate", *sorted(evaluators.values())],
        "compare": ["evaluation.compare", "pipelines.scores"],
    }
    for name, dataset in (params.get("datasets") or {}).items():
        module = _choice(dataset, "source", sources, f"{where}: datasets.{name}")
        entries[f"{_INGEST}{name}"] = ["assets.ingest", module]
        entries[f"{_VALIDATE}{name}"] = ["assets.validation.run"]
    for name in params.get("promotions") or {}:
        entries[f"challenge-{name}"] = ["evaluation.promotion.run", *sorted(evaluators.values())]
    for section, stage, module in _PLAIN:
        for name in params.get(section) or {}:
            entries[f"{stage}-{name}"] = [module]
    for name, recipe in (params.get("recipes") or {}).items():
        module = _choice(recipe, "method", methods, f"{where}: recipes.{name}")
        entries[f"pretrain-{name}"] = ["training.pretrain", module]
    return dict(sorted(entries.items()))


def _table(package: str, name: str) -> dict[str, str]:
    """Read a table ``kind -> "module:Class"`` and keep the modules; package ``__init__`` files import nothing heavy."""
    table: dict[str, str] = getattr(importlib.import_module(package), name)
    return {kind: dotted.partition(":")[0] for kind, dotted in table.items()}


def _choice(section: Any, key: str, table: dict[str, str], where: str) -> str:
    part = section.get(key) if isinstance(section, dict) else None
    kind = part.get("kind") if isinstance(part, dict) else None
    if kind not in table:
        raise ConfigError(f"{where}.{key}.kind: {unknown(str(kind), list(table), key)}")
    return table[kind]


def stamp(modules: Iterable[str]) -> dict[str, Any]:
    """Digest the code and resources reached from entry modules.

    Args:
        modules: Dotted names.

    Returns:
        ``{"code": 16 hex digits, "files": {name: SHA-256}}``.

    Raises:
        ConfigError: A module has no file; a stamp without it would never change again.
    """
    modules = list(modules)
    for module in modules:
        base = ROOT.joinpath(*module.split("."))
        if not base.with_suffix(".py").is_file() and not (base / "__init__.py").is_file():
            raise ConfigError(message(f"no file holds the module {module}", fix="correct the table that names it"))
    files = closure(modules)
    folders = {(ROOT / name).parent for name in files}
    for folder in folders:
        files |= {path.relative_to(ROOT).as_posix(): file_digest(path) for path in _resources(folder)}
    files = dict(sorted(files.items()))
    lines = "\n".join(f"{name} {digest}" for name, digest in files.items())
    return {"code": hashlib.sha256(lines.encode()).hexdigest()[:16], "files": files}


def _resources(folder: Path) -> list[Path]:
    """List the files of a package that are no code: in its folder itself and in subfolders that hold no code."""
    found: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "_")):
            continue
        if path.is_dir():
            if not any(path.rglob("*.py")):
                found += [child for child in sorted(path.rglob("*")) if _is_resource(child)]
        elif _is_resource(path):
            found.append(path)
    return found


def _is_resource(path: Path) -> bool:
    return path.is_file() and path.suffix not in _NOT_RESOURCES and not path.name.startswith(".")


def compute_stamps(params: Path) -> dict[str, dict[str, Any]]:
    """Compute every stamp of a params.yaml.

    Args:
        params: The file; baselines and accepted deliveries lie in folders beside it.

    Returns:
        Stamp name -> content of its file.
    """
    stamps = {name: stamp(modules) for name, modules in entry_modules(read_yaml(params), params).items()}
    for name in stamps:
        entry = name.partition("-")[2]
        if name.startswith(_VALIDATE):
            stamps[name]["baseline"] = _digest_or_nothing(params.parent / BASELINES / f"{entry}.json")
        elif name.startswith(_INGEST):
            stamps[name]["batches"] = _accepted(params.parent / BATCHES / f"{entry}.json")
    return stamps


def _digest_or_nothing(path: Path) -> str:
    return file_digest(path) if path.is_file() else _NOTHING


def _accepted(path: Path) -> str:
    """Name the accepted batches of a data set; a waiting one that is rejected changes no data."""
    from assets.deliveries.batches import read_batches

    accepted = [batch.model_dump(mode="json") for batch in read_batches(path).accepted]
    return value_digest(accepted) if accepted else _NOTHING


def stamp_version(stamp: Mapping[str, Any]) -> str:
    """Return a short text that changes whenever code or baseline of a stamp do.

    Deliveries are left out: they come while Dagster runs, which keeps the versions of its last load.
    """
    baseline = stamp.get("baseline", _NOTHING)
    return stamp["code"] if baseline == _NOTHING else f"{stamp['code']}-{baseline[:8]}"


def write_stamps(params: Path, folder: Path) -> list[str]:
    """Write ``<folder>/<stamp>.json`` for every stamp; a file whose content stays the same is not touched.

    Args:
        params: The params.yaml.
        folder: Where the stamps go; stamps of data sets and recipes that are gone are removed.

    Returns:
        The names of the stamps that changed, were added or were removed.
    """
    stamps = compute_stamps(params)
    folder.mkdir(parents=True, exist_ok=True)
    before = {path.stem: path for path in folder.glob("*.json")}
    changed: list[str] = []
    for name in before.keys() - stamps.keys():
        before[name].unlink()
        changed.append(name)
    for name, content in stamps.items():
        path = folder / f"{name}.json"
        if name in before and _read_or_none(path) == content:
            continue
        write_json(path, content)
        changed.append(name)
    return sorted(changed)


def stamps_are_current(params: Path, folder: Path) -> bool:
    """Say whether the files in ``folder`` are what :func:`write_stamps` would write."""
    found = {path.stem: _read_or_none(path) for path in folder.glob("*.json")}
    return found == compute_stamps(params)


def _read_or_none(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
