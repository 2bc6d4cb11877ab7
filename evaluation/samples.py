"""What there is to evaluate on: the accepted samples of a data set's evaluation splits, and its classes."""

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from assets.errors import DataError, message
from assets.index import NO_CLASS, read_index
from assets.shard_cache import cache_for
from training.data.pairs import Pairs, load_pairs

DATASET = "dataset.json"


@dataclass(frozen=True, slots=True)
class ClassFacts:
    """One zero-shot class as dataset.json describes it.

    Attributes:
        class_id: Its number.
        name: English name for prompts.
        plural: Its plural.
        group: A coarse category.
        train_count: Train samples that show it.
        frequency: ``head``, ``mid`` or ``tail`` by ``train_count``.
    """

    class_id: int
    name: str
    plural: str
    group: str
    train_count: int
    frequency: str


@dataclass(frozen=True, slots=True)
class SplitFacts:
    """One split of the data set.

    Attributes:
        name: Its name, e.g. ``"test_style"``.
        role: ``train``, ``retrieval`` or ``zero_shot``.
        suite: The suite its scores are reported under, e.g. ``"held_out_style"``.
    """

    name: str
    role: str
    suite: str


def read_dataset(raw: Path) -> dict[str, Any]:
    """Read ``dataset.json`` of a raw data folder.

    Args:
        raw: Folder of ``ingest``.

    Raises:
        DataError: The file is missing.
    """
    path = raw / DATASET
    if not path.is_file():
        raise DataError(message(f"{path} does not exist", fix='rerun "dvc repro ingest"'))
    return json.loads(path.read_text(encoding="utf-8"))


def dataset_splits(dataset: dict[str, Any], roles: Collection[str], where: Path) -> list[SplitFacts]:
    """Return the splits with one of the roles, sorted by name.

    Args:
        dataset: The content of dataset.json.
        roles: The roles wanted.
        where: The folder, for errors.

    Raises:
        DataError: Two splits of one role share a suite, so their scores would overwrite each other.
    """
    splits = [
        SplitFacts(name, facts["role"], facts["domain"])
        for name, facts in sorted(dataset["splits"].items())
        if facts["role"] in roles
    ]
    seen: dict[tuple[str, str], str] = {}
    for split in splits:
        if other := seen.get((split.role, split.suite)):
            raise DataError(
                message(
                    f"{where / DATASET}: splits {other} and {split.name} both have role {split.role}",
                    f"domain {split.suite} twice",
                    "one split per role and domain",
                )
            )
        seen[split.role, split.suite] = split.name
    return splits


def dataset_classes(dataset: dict[str, Any]) -> tuple[ClassFacts, ...]:
    """Return the zero-shot classes in the order of dataset.json."""
    names = ClassFacts.__dataclass_fields__
    return tuple(ClassFacts(**{name: facts[name] for name in names}) for facts in dataset.get("classes", []))


def dataset_languages(dataset: dict[str, Any]) -> tuple[str, ...]:
    """Return the languages of the captions in the order of dataset.json."""
    return tuple(str(language) for language in dataset.get("languages", []))


def split_pairs(raw: Path, valid: Path, split: SplitFacts, params: Path) -> tuple[Pairs, tuple[int, ...] | None]:
    """Return the accepted samples of a split, and their classes if it has classes.

    Args:
        raw: Folder of ``ingest``.
        valid: Folder of ``validate``.
        split: The split.
        params: The params.yaml, which names the store when shards are URLs.

    Returns:
        The samples in index order, and one class id per sample for the role ``zero_shot``, otherwise None.

    Raises:
        DataError: No sample is accepted, or a zero-shot sample has no class.
    """
    pairs = load_pairs(raw, valid, split.name)
    pairs = replace(pairs, cache=cache_for(pairs.shards, params))
    if split.role != "zero_shot":
        return pairs, None
    table = read_index(raw, ("key", "class_id"), split.name)
    labels = dict(zip(table["key"].to_pylist(), table["class_id"].to_pylist(), strict=True))
    class_ids = tuple(labels[key] for key in pairs.keys.to_pylist())
    if NO_CLASS in class_ids:
        key = pairs.keys[class_ids.index(NO_CLASS)]
        raise DataError(message(f"sample {key} of split {split.name} has no class_id", fix="ingest the data anew"))
    return pairs, class_ids
