"""The concepts that are counted: names of a data set's classes, or lines of a file.

Two names are one concept when they are equal once case is folded, underscores are blanks, and runs of blanks are one
blank. The published list takes strings as they are, so that "Bicycle" and "bicycle" are two.
"""

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assets.errors import ConfigError, DataError, message
from assets.raw_folder import DATASET

_COLUMNS = "name, aliases joined by |, group, with tabs between them"
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Concept:
    """What is looked for in captions and pictures.

    Attributes:
        name: As it is shown.
        aliases: Other names; each counts as the concept.
        group: A coarse category, empty where there is none.
    """

    name: str
    aliases: tuple[str, ...]
    group: str


@dataclass(frozen=True, slots=True)
class ConceptList:
    """Concepts, each once.

    Attributes:
        concepts: In list order; a place in it is the concept's id, K of them.
        notes: One sentence for each thing in the list that may not be meant as it was taken.
    """

    concepts: tuple[Concept, ...]
    notes: tuple[str, ...]


def canonical(name: str) -> str:
    """Return what names of one concept have in common: NFKC, case folded, underscores and runs of blanks one blank."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().replace("_", " ").split())


def list_concepts(file: Path | None, raw: Path) -> ConceptList:
    """Read the concepts of an entry of params.yaml.

    Args:
        file: The file with the concepts; None takes the classes of the data set.
        raw: Folder of ``ingest``.

    Raises:
        ConfigError: There are none, or a name has no letter and no digit.
        DataError: The file is not readable, or a line of it is malformed.
    """
    found = _class_concepts(raw) if file is None else _file_concepts(file)
    if not found:
        what = f"{raw / DATASET} names no classes" if file is None else f"{file} lists no concept"
        raise ConfigError(message(what, 0, "1 or more", f"make a file of concepts ({_COLUMNS}) and name it in list"))
    return merge(found)


def merge(concepts: Sequence[Concept]) -> ConceptList:
    """Make one concept of all that have one name, keeping all aliases, and the group that came first.

    Args:
        concepts: In list order, repeats allowed.

    Raises:
        ConfigError: A name has no letter and no digit, so nothing can be searched for.
    """
    if bad := [concept.name for concept in concepts if not any(map(str.isalnum, concept.name))]:
        what = f"{len(bad)} concepts have no letter and no digit in their name ({_shown(bad)})"
        raise ConfigError(message(what, fix="drop them from the list"))
    same: dict[str, list[Concept]] = {}
    for concept in concepts:
        same.setdefault(canonical(concept.name), []).append(concept)
    notes = [_note(several) for several in same.values() if len(several) > 1]
    return ConceptList(tuple(_one_of(several) for several in same.values()), tuple(notes))


def places(concepts: Sequence[Concept]) -> dict[str, tuple[int, ...]]:
    """Return canonical name -> ids of the concepts it stands for.

    Args:
        concepts: In list order.

    Returns:
        A name stands for its own concept; an alias for every concept that has it, unless it is a concept's name.
    """
    found = {canonical(concept.name): (number,) for number, concept in enumerate(concepts)}
    aliases: dict[str, list[int]] = {}
    for number, concept in enumerate(concepts):
        for alias in dict.fromkeys(map(canonical, concept.aliases)):
            aliases.setdefault(alias, []).append(number)
    return {**{alias: tuple(numbers) for alias, numbers in aliases.items()}, **found}


def _one_of(several: Sequence[Concept]) -> Concept:
    first = several[0]
    aliases = {canonical(alias): alias for concept in reversed(several) for alias in reversed(concept.aliases)}
    kept = tuple(alias for name, alias in reversed(aliases.items()) if name and name != canonical(first.name))
    groups = [concept.group for concept in several if concept.group]
    return Concept(first.name, kept, groups[0] if groups else "")


def _note(several: Sequence[Concept]) -> str:
    groups = list(dict.fromkeys(concept.group for concept in several if concept.group))
    told = f"{several[0].name!r} is listed {len(several)} times and counted as one concept"
    if len(groups) > 1:
        told += f", though in the groups {', '.join(groups)}: it counts for {groups[0]}"
    return told


def _class_concepts(raw: Path) -> list[Concept]:
    path = raw / DATASET
    try:
        classes = json.loads(path.read_text(encoding="utf-8")).get("classes", ())
    except (OSError, ValueError) as error:
        raise DataError(message(f"{path} is not readable ({error})", fix='rerun "dvc repro ingest"')) from error
    return [_class_concept(told) for told in classes]


def _class_concept(told: Mapping[str, Any]) -> Concept:
    plural = told.get("plural") or told["name"]
    aliases = (plural,) if canonical(plural) != canonical(told["name"]) else ()
    return Concept(told["name"], aliases, told.get("group") or "")


def _file_concepts(path: Path) -> list[Concept]:
    try:
        # a byte-order mark, which some editors write, is no part of the first name
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(message(f"{path} is not readable as UTF-8 text ({error})", fix="mend the file")) from error
    return [_line_concept(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _line_concept(path: Path, number: int, line: str) -> Concept:
    columns = [column.strip() for column in line.split("\t")]
    if len(columns) > 3 or not columns[0]:
        got = f"{len(columns)} columns" if columns[0] else "no name"
        raise DataError(message(f"{path}, line {number} is no concept", got, _COLUMNS, "mend the line"))
    name, aliases, group = [*columns, "", ""][:3]
    return Concept(name, tuple(alias.strip() for alias in aliases.split("|") if alias.strip()), group)


def _shown(names: Iterable[str]) -> str:
    listed = [repr(name) for name in names]
    return ", ".join(listed[:_SHOWN]) + (", ..." if len(listed) > _SHOWN else "")
