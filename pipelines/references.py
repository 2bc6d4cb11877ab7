"""The names by which entries of params.yaml refer to each other: each must exist and fit, and none lead in a circle."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from assets.config import noun
from assets.errors import ConfigError, message
from assets.section import Section, unknown

NONE = "none"
"""What an entry names that wants nothing of a section; no entry may have that name."""
Entries = Mapping[str, Mapping[str, Section]]
"""Section -> name -> the entries that could be parsed."""
Place = tuple[str, str]
"""Section and name of an entry."""


@dataclass(frozen=True, slots=True)
class _Reference:
    """A field that holds the name of another entry.

    Attributes:
        field: Its name.
        section: Where the other entry stands.
        optional: Whether ``none`` is a value.
        same_data: Whether both must be of one data set.
    """

    field: str
    section: str
    optional: bool = False
    same_data: bool = False


_DATASET = _Reference("dataset", "datasets")
REFERENCES: dict[str, tuple[_Reference, ...]] = {
    "features": (_DATASET,),
    "embeddings": (_DATASET, _Reference("run", "runs", optional=True)),
    "captioners": (_DATASET, _Reference("run", "runs", optional=True)),
    "concepts": (_DATASET, _Reference("embeddings", "embeddings", optional=True, same_data=True)),
    "studies": (_DATASET, _Reference("recipe", "recipes")),
    "policies": (
        _DATASET,
        _Reference("embeddings", "embeddings", optional=True, same_data=True),
        _Reference("captioner", "captioners", optional=True, same_data=True),
        _Reference("concepts", "concepts", optional=True, same_data=True),
    ),
    "teachers": (
        _DATASET,
        _Reference("run", "runs", optional=True),
        _Reference("ensemble_with", "teachers", optional=True, same_data=True),
    ),
    "exports": (_Reference("run", "runs"),),
    "indexes": (_DATASET, _Reference("run", "runs")),
    "promotions": (_DATASET, _Reference("run", "runs", same_data=True)),
    "runs": (
        _Reference("recipe", "recipes"),
        _DATASET,
        _Reference("policy", "policies", optional=True, same_data=True),
        _Reference("features", "features", optional=True, same_data=True),
        _Reference("teacher", "teachers", optional=True, same_data=True),
        _Reference("start", "runs", optional=True),
    ),
}


_JUDGES = ("embeddings", "captioners", "teachers")
"""What a policy, or a run itself, goes by."""
_WAYS: dict[str, dict[str, str]] = {
    "runs": {"policy": "policies", "teacher": "teachers", "start": "runs"},
    "policies": {"embeddings": "embeddings", "captioner": "captioners", "concepts": "concepts"},
    "concepts": {"embeddings": "embeddings"},
    "embeddings": {"run": "runs"},
    "captioners": {"run": "runs"},
    "teachers": {"run": "runs", "ensemble_with": "teachers"},
}
"""Section -> field -> section of the entry that it names: the ways that could lead in a circle."""


def wrong_references(data: Mapping[str, Any], entries: Entries) -> Iterator[str]:
    """Find what is wrong with the names in params.yaml.

    Args:
        data: All sections as they stand in the file: a name that is there counts, even if its entry is faulty.
        entries: The sections in ``REFERENCES`` and ``recipes``.

    Yields:
        One sentence per fault, which begins with the place.
    """
    for section, references in REFERENCES.items():
        for name, config in entries[section].items():
            for reference in references:
                yield from _wrong(f"{section}.{name}", config, reference, data, entries)
        if isinstance(data[section], dict) and NONE in data[section]:
            yield f"{section}.{NONE}: that name says that none is wanted; choose another one"
    yield from _circles(entries)
    yield from _unseen_captions(entries)


def _wrong(
    where: str, config: Section, reference: _Reference, data: Mapping[str, Any], entries: Entries
) -> Iterator[str]:
    """Yield what is wrong with one name: that nothing has it, or that what has it is of another data set."""
    section, wanted = reference.section, str(getattr(config, reference.field))
    if reference.optional and wanted == NONE:
        return
    names = [str(key) for key in data[section]] if isinstance(data[section], dict) else []
    if wanted not in names:
        valid = [NONE, *names] if reference.optional else names
        yield f"{where}: {unknown(wanted, valid, noun(section))}"
    elif reference.same_data and wanted in entries[section]:
        of, own = (str(getattr(entry, "dataset", "")) for entry in (entries[section][wanted], config))
        if of != own:
            yield message(f"{where}: {noun(section)} {wanted} of another data set", of, own)


def _circles(entries: Entries) -> Iterator[str]:
    """Yield each circle of entries that wait for each other, such as runs that learn from their own model."""
    done: set[Place] = set()
    for section in ("runs", "teachers"):
        for name in entries[section]:
            if circle := _circle((section, name), [], entries, done):
                done.update(circle)
                places = " -> ".join(".".join(place) for place in circle)
                yield message(f"{'.'.join(circle[0])} depends on itself ({places})", fix=_way_out(circle))


def _way_out(circle: list[Place]) -> str:
    sections = {section for section, _ in circle}
    if sections == {"runs"}:
        return f"let one of them start as another run, or as {NONE}"
    if sections == {"teachers"}:
        return f"set ensemble_with of one of them to {NONE}"
    judge = next(place for place in circle if place[0] in _JUDGES)
    return f"let {'.'.join(judge)} name a run that does without it, such as one whose policy is {NONE}"


def _circle(here: Place, path: list[Place], entries: Entries, done: set[Place]) -> list[Place]:
    """Follow all ways from an entry; return the first circle, from a run to itself if it has one, or an empty list."""
    if here in path:
        circle = path[path.index(here) :]
        first = next((i for i, (section, _) in enumerate(circle) if section == "runs"), 0)
        return [*circle[first:], *circle[:first], circle[first]]
    section, name = here
    if here in done or name not in entries[section]:
        return []
    for field, following in _WAYS[section].items():
        if circle := _circle((following, str(getattr(entries[section][name], field))), [*path, here], entries, done):
            return circle
    done.add(here)
    return []


def _unseen_captions(entries: Entries) -> Iterator[str]:
    """Yield the runs whose policy changes captions that their frozen text was made without."""
    from assets.reduction.config import PolicyConfig
    from training.config import RecipeConfig, RunConfig, check_captions

    for name, run in entries["runs"].items():
        assert isinstance(run, RunConfig)
        policy, recipe = entries["policies"].get(run.policy), entries["recipes"].get(run.recipe)
        if isinstance(policy, PolicyConfig) and isinstance(recipe, RecipeConfig):
            try:
                check_captions(f"runs.{name}", run, recipe, policy)
            except ConfigError as error:
                yield str(error)
