"""What the best run gets wrong: confusions of zero-shot classification, and foils preferred to captions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from evaluation.concept_tables import PER_CLASS
from evaluation.retrieval import draw_order
from evaluation.unit_scores import PER_IMAGE

FOILS = "foils.parquet"
_PICTURES = 3


@dataclass(frozen=True, slots=True)
class Failure:
    """Images of one class that were taken for another.

    Attributes:
        true: Name of the class they show.
        predicted: Name of the class they were taken for.
        count: How many of them.
        of: How many images of the class the suite has.
        margin: Mean cosine of the true class minus that of the best other one; the lower, the surer the mistake.
        keys: Some of the images, the surest mistakes first.
        likeness: An image of the class they were taken for that was recognised, else any; None without images.
    """

    true: str
    predicted: str
    count: int
    of: int
    margin: float
    keys: tuple[str, ...]
    likeness: str | None


@dataclass(frozen=True, slots=True)
class Confusions:
    """The worst confusions of one suite.

    Attributes:
        suite: Its name.
        wrong: Images whose nearest class is not theirs.
        images: All images.
        failures: The most frequent confusions first.
    """

    suite: str
    wrong: int
    images: int
    failures: tuple[Failure, ...]

    @property
    def keys(self) -> set[str]:
        """All images to show."""
        likenesses = {one.likeness for one in self.failures if one.likeness is not None}
        return likenesses.union(*(one.keys for one in self.failures))


def confusions(report: Path, shown: int, order: Callable[[str], Any]) -> list[Confusions]:
    """Return the worst confusions of one run per suite.

    Args:
        report: Folder of ``evaluate``.
        shown: Confusions per suite.
        order: Sort key of suites.

    Returns:
        One entry per suite; none where the run has no scores of single images, or none is to be shown.
    """
    paths = report / PER_IMAGE, report / PER_CLASS
    if not shown or not all(path.is_file() for path in paths):
        return []
    images, classes = (pq.read_table(path).to_pylist() for path in paths)
    names = {line["class_id"]: str(line["name"]) for line in classes}
    return [
        _suite(suite, [line for line in images if line["suite"] == suite], names, shown)
        for suite in sorted({line["suite"] for line in images}, key=order)
    ]


def _suite(suite: str, images: Sequence[dict[str, Any]], names: dict[int, str], shown: int) -> Confusions:
    """Gather the wrong images of one suite by true and predicted class."""
    found: dict[tuple[int, int], list[dict[str, Any]]] = {}  # (true, predicted) -> images
    for line in images:
        if line["predicted"] != line["class_id"]:
            found.setdefault((line["class_id"], line["predicted"]), []).append(line)
    of: dict[int, list[dict[str, Any]]] = {}
    for line in images:
        of.setdefault(line["class_id"], []).append(line)
    margins = {pair: sum(line["margin"] for line in lines) / len(lines) for pair, lines in found.items()}
    worst = sorted(found, key=lambda pair: (-len(found[pair]), margins[pair], pair))[:shown]
    failures: list[Failure] = []
    for true, predicted in worst:
        lines = sorted(found[true, predicted], key=lambda line: (line["margin"], line["key"]))
        known = min(
            of.get(predicted, []),
            key=lambda line: (line["predicted"] != line["class_id"], -line["margin"], line["key"]),
            default=None,
        )
        failures.append(
            Failure(
                true=names[true],
                predicted=names[predicted],
                count=len(lines),
                of=len(of[true]),
                margin=margins[true, predicted],
                keys=tuple(line["key"] for line in lines[:_PICTURES]),
                likeness=None if known is None else known["key"],
            )
        )
    return Confusions(suite, sum(map(len, found.values())), len(images), tuple(failures))


@dataclass(frozen=True, slots=True)
class PreferredFoil:
    """A picture whose caption scored below the same caption with one thing wrong.

    Attributes:
        suite: Of the picture.
        kind: What is wrong in the foil.
        key: Of the picture.
        caption: What is true.
        foil: What is not.
    """

    suite: str
    kind: str
    key: str
    caption: str
    foil: str


def preferred_foils(report: Path, shown: int) -> list[PreferredFoil]:
    """Return some foils that one run preferred, drawn by a hash of their keys, by kind.

    Args:
        report: Folder of ``evaluate``.
        shown: Foils per kind.
    """
    path = report / FOILS
    lines = pq.read_table(path).to_pylist() if path.is_file() else []
    found: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        if line["right"] < 0.5:  # expected, so a tie is one half and no mistake
            found.setdefault(line["kind"], []).append(line)
    return [
        PreferredFoil(*(str(wrong[place][name]) for name in ("suite", "kind", "key", "caption", "foil")))
        for _, wrong in sorted(found.items())
        for place in draw_order([line["key"] for line in wrong])[:shown]
    ]
