"""dvc.yaml read without DVC: its stages with templates resolved, and the versions that dvc.lock records.

Importing DVC takes a second and a half, and Dagster loads its definitions again and again, so this module resolves the
subset of DVC's templating that we use (``foreach``, ``matrix``, ``${..}`` from params.yaml) by itself. A test holds it
against DVC's own resolver.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from assets.errors import ConfigError, message
from assets.section import read_yaml
from pipelines.dvc_template import interpolate

DVC_YAML, DVC_LOCK, PARAMS = "dvc.yaml", "dvc.lock", "params.yaml"
OutKind = Literal["out", "metric", "plot"]
_OUT_SECTIONS: dict[str, OutKind] = {"outs": "out", "metrics": "metric", "plots": "plot"}
_NOTHING = "none"


@dataclass(frozen=True, slots=True)
class Out:
    """An output of a stage."""

    path: str
    kind: OutKind
    cached: bool


@dataclass(frozen=True, slots=True)
class StageRecord:
    """One stage as DVC would run it.

    Attributes:
        address: Its name for ``dvc repro``, e.g. ``"pretrain@clip-s0"``.
        cmd: The command lines.
        desc: The text of ``desc:``.
        deps: Paths it reads.
        params: Keys of params.yaml it reads.
        outs: What it writes, in the order of dvc.yaml.
        meta: The mapping under ``meta:``.
        entry: What the entry of ``foreach`` or ``matrix`` says in texts and whole numbers, its name first under
            ``entry``: ``{"entry": "clip-s0", "recipe": "clip", "seed": "0"}``; what is empty or "none" is left out.
    """

    address: str
    cmd: tuple[str, ...]
    desc: str
    deps: tuple[str, ...]
    params: tuple[str, ...]
    outs: tuple[Out, ...]
    meta: Mapping[str, Any]
    entry: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def group(self) -> str:
        """The name in dvc.yaml, without the key of foreach or matrix."""
        return self.address.partition("@")[0]


@dataclass(frozen=True, slots=True)
class Version:
    """What dvc.lock knows about a path."""

    md5: str
    size: int | None
    num_files: int | None


@dataclass(frozen=True, slots=True)
class LockEntry:
    """One stage in dvc.lock: the versions it was last run with and gave."""

    deps: Mapping[str, Version] = field(default_factory=dict[str, Version])
    outs: Mapping[str, Version] = field(default_factory=dict[str, Version])


@dataclass(frozen=True, slots=True)
class Project:
    """The stages of a DVC project, by address, in the order of dvc.yaml, and its params.yaml as it stands."""

    root: Path
    stages: Mapping[str, StageRecord]
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def producers(self, path: str) -> Iterator[tuple[StageRecord, Out]]:
        """Yield the stages and outputs that a dependency on ``path`` reaches: equal, around it or inside it."""
        for stage in self.stages.values():
            for out in stage.outs:
                if out.path == path or path.startswith(f"{out.path}/") or out.path.startswith(f"{path}/"):
                    yield stage, out


def load_project(root: Path) -> Project:
    """Read dvc.yaml and params.yaml of a project.

    Args:
        root: The folder that holds them.

    Returns:
        All stages.

    Raises:
        ConfigError: A file is missing or uses templating that we do not know.
    """
    path = root / DVC_YAML
    stages = read_yaml(path).get("stages") or {}
    params = read_yaml(root / PARAMS) if (root / PARAMS).is_file() else {}
    records: dict[str, StageRecord] = {}
    for name, definition in stages.items():
        for address, body, context in _instances(str(name), definition, params, path):
            resolved = interpolate(body, context, f"{path}: stage {address}")
            records[address] = _record(address, resolved, _entry(name, address, context.get("item")))
    return Project(root, records, params)


def _instances(
    name: str, definition: Any, params: Mapping[str, Any], path: Path
) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yield (address, body, template context) for every stage that one entry of dvc.yaml stands for."""
    where = f"{path}: stage {name}"
    if not isinstance(definition, dict):
        raise ConfigError(message(where, type(definition).__name__, "a mapping", "mend dvc.yaml"))
    if "vars" in definition or "wdir" in definition:
        raise ConfigError(
            message(f"{where} uses vars or wdir", fix="our reader knows neither; write values in params.yaml")
        )
    if "foreach" in definition:
        items = interpolate(definition["foreach"], params, where)
        for key, item in _foreach(items, where):
            context = {**params, "item": item}
            if isinstance(items, dict):
                context["key"] = key
            yield f"{name}@{key}", definition["do"], context
    elif "matrix" in definition:
        axes = interpolate(definition["matrix"], params, where)
        body = {key: value for key, value in definition.items() if key != "matrix"}
        for key, item in _matrix(axes):
            yield f"{name}@{key}", body, {**params, "item": item, "key": key}
    else:
        yield name, definition, dict(params)


def _foreach(items: Any, where: str) -> list[tuple[str, Any]]:
    if isinstance(items, dict):
        return [(_text(key), item) for key, item in items.items()]
    if isinstance(items, list):
        nested = any(isinstance(item, dict | list) for item in items)
        return [(str(place) if nested else _text(item), item) for place, item in enumerate(items)]
    raise ConfigError(message(f"{where}: foreach", type(items).__name__, "a mapping or a list", "mend dvc.yaml"))


def _matrix(axes: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Combine the axes; a value that is no scalar is named after its axis and place, as DVC does."""
    found: list[tuple[tuple[str, ...], dict[str, Any]]] = [((), {})]
    for axis, values in axes.items():
        named = [
            (f"{axis}{place}" if isinstance(value, dict | list) else _text(value), value)
            for place, value in enumerate(values)
        ]
        found = [((*names, name), {**item, axis: value}) for names, item in found for name, value in named]
    return [("-".join(names), item) for names, item in found]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _entry(name: str, address: str, item: Any) -> dict[str, str]:
    if address == name:
        return {}
    said: Mapping[str, Any] = item if isinstance(item, dict) else {}
    found = {"entry": address.removeprefix(f"{name}@")}
    for key, value in said.items():
        if isinstance(value, str | int) and not isinstance(value, bool) and value not in ("", _NOTHING):
            found.setdefault(str(key), str(value))
    return found


def _record(address: str, body: Mapping[str, Any], said: Mapping[str, str]) -> StageRecord:
    cmd = body.get("cmd") or ()
    outs: list[Out] = []
    for section, kind in _OUT_SECTIONS.items():
        for path, options in _entries(body.get(section)):
            outs.append(Out(path.rstrip("/"), kind, bool(options.get("cache", True))))
    params: list[str] = []
    for entry in body.get("params") or ():
        # a mapping names another file; its keys are no keys of params.yaml
        params += [str(entry)] if not isinstance(entry, dict) else [f"{file}:" for file in entry]
    return StageRecord(
        address=address,
        cmd=(cmd,) if isinstance(cmd, str) else tuple(cmd),
        desc=str(body.get("desc") or ""),
        deps=tuple(str(dep).rstrip("/") for dep in body.get("deps") or ()),
        params=tuple(params),
        outs=tuple(outs),
        meta=body.get("meta") or {},
        entry=said,
    )


def _entries(section: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (path, options) of outs, which are strings or one-key mappings."""
    for entry in section or ():
        if isinstance(entry, dict):
            for path, options in entry.items():
                yield str(path), options or {}
        else:
            yield str(entry), {}


def read_lock(root: Path) -> dict[str, LockEntry]:
    """Read dvc.lock.

    Args:
        root: The project.

    Returns:
        Stage address -> versions; empty when nothing was run yet.
    """
    path = root / DVC_LOCK
    if not path.is_file():
        return {}
    stages = read_yaml(path).get("stages") or {}
    return {
        str(address): LockEntry(_versions(entry.get("deps")), _versions(entry.get("outs")))
        for address, entry in stages.items()
    }


def read_pointer(path: Path) -> Version | None:
    """Read the version that a ``.dvc`` file names.

    Args:
        path: A file as ``dvc add`` writes it, with one output.

    Returns:
        The version; None when the file is absent or still without one.
    """
    if not path.is_file():
        return None
    return next(iter(_versions(read_yaml(path).get("outs")).values()), None)


def _versions(entries: Any) -> dict[str, Version]:
    return {
        entry["path"].rstrip("/"): Version(str(entry["md5"]), entry.get("size"), entry.get("nfiles"))
        for entry in entries or ()
        if entry.get("md5")
    }
