"""The history of a champion: ``champions/N.json``, which git tracks.

A promotion appends a version, a rollback goes back to an older one and bars the model that it leaves. The promotion of
``pipelines`` writes the file, the stage ``challenge`` reads it. DVC does not know of that dependency: a decision names
the champion that it was made against, and acting on it compares (``pipelines/promotion/promote.py``). This module is
light: it is imported with params.yaml.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from assets.atomic import write_json
from assets.errors import DataError, message

CHAMPIONS = Path("champions")
What = Literal["promoted", "rolled_back"]


@dataclass(frozen=True, slots=True)
class ChampionVersion:
    """One model that was promoted.

    Attributes:
        version: Counted from 1.
        run: The run that made it.
        model: Version of the exported folder, 16 hex digits (``assets.manifest.version_of``).
        md5: DVC's hash of the folder, ``<hex>.dir``.
        size: Bytes of the folder.
        files: Files in it.
        dataset: Data set of the run.
        data: Version of the accepted keys it was scored on.
        evaluation: Digests of settings and code of scoring.
        scores: Metric -> value at promotion.
        reason: Why it was promoted, in one sentence.
        commit: Git commit it was promoted from.
        when: UTC, ``2026-11-28T21:00:00Z``.
        tag: Git tag of the version, ``champion@v1.0.0``.
        published: Address of the published copy, or None.
    """

    version: int
    run: str
    model: str
    md5: str
    size: int
    files: int
    dataset: str
    data: str
    evaluation: str
    scores: Mapping[str, float]
    reason: str
    commit: str
    when: str
    tag: str
    published: str | None


@dataclass(frozen=True, slots=True)
class ChampionEvent:
    """One change of the champion.

    Attributes:
        when: UTC, ``2026-11-28T21:00:00Z``.
        what: What was done.
        version: The version that is champion since.
        reason: Why, in one sentence.
    """

    when: str
    what: What
    version: int
    reason: str


@dataclass(frozen=True, slots=True)
class History:
    """All that was promoted under one name.

    Attributes:
        name: Of the promotion.
        current: Version of the champion; None where there is none.
        barred: Model versions that never become champion again, because a rollback left them.
        versions: Every version, oldest first.
        events: Every change, oldest first.
    """

    name: str
    current: int | None = None
    barred: tuple[str, ...] = ()
    versions: tuple[ChampionVersion, ...] = ()
    events: tuple[ChampionEvent, ...] = ()

    @property
    def champion(self) -> ChampionVersion | None:
        """The current version; None where there is no champion."""
        return next((version for version in self.versions if version.version == self.current), None)


_RecordT = TypeVar("_RecordT", ChampionVersion, ChampionEvent)


def history_path(folder: Path, name: str) -> Path:
    """Return the file of a champion.

    Args:
        folder: Holds the histories, ``champions``.
        name: Of the promotion.
    """
    return folder / f"{name}.json"


def read_history(folder: Path, name: str) -> History:
    """Read the history of a champion; an absent file is an empty history.

    Args:
        folder: Holds the histories, ``champions``.
        name: Of the promotion.

    Raises:
        DataError: The file is damaged, or of another champion.
    """
    path = history_path(folder, name)
    if not path.is_file():
        return History(name)
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        history = History(
            name=data["name"],
            current=data["current"],
            barred=tuple(data["barred"]),
            versions=tuple(_record(ChampionVersion, item) for item in data["versions"]),
            events=tuple(_record(ChampionEvent, item) for item in data["events"]),
        )
        fault = _fault(history, name)
    except (ValueError, KeyError, TypeError) as error:
        fault = f"{type(error).__name__}: {error}"
        history = History(name)
    if fault:
        raise DataError(message(f"{path} is no history of a champion ({fault})", fix=f'run "git checkout {path}"'))
    return history


def _record(cls: type[_RecordT], item: Mapping[str, Any]) -> _RecordT:
    """Make a record of plain data, which must have its fields and no others."""
    wanted = {field.name for field in fields(cls)}
    if strange := sorted(wanted ^ set(item)):
        raise ValueError(f"{cls.__name__} lacks or does not know {', '.join(strange)}")
    return cls(**item)


def _fault(history: History, name: str) -> str:
    """Say what does not fit together in a history; empty when all does."""
    numbers = [version.version for version in history.versions]
    if history.name != name:
        return f"it is of {history.name!r}"
    if numbers != list(range(1, len(numbers) + 1)):
        return f"its versions are {numbers} and not 1, 2, ..."
    if history.current is not None and history.current not in numbers:
        return f"its current version {history.current} is not among its versions"
    if strange := [event.what for event in history.events if event.what not in get_args(What)]:
        return f"unknown event {strange[0]!r}"
    return ""


def write_history(folder: Path, history: History) -> Path:
    """Write the history of a champion atomically.

    Args:
        folder: Holds the histories, ``champions``.
        history: What to write.

    Returns:
        The file.

    Raises:
        DataError: The parts of the history do not fit together; nothing is written.
    """
    path = history_path(folder, history.name)
    if fault := _fault(history, history.name):
        raise DataError(f"{path} would not be readable again: {fault}")
    write_json(path, asdict(history))
    return path
