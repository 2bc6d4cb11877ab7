"""What a group of runs was trained on and what it got for it, concept by concept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from assets.concepts.concept_list import canonical
from assets.concepts.folder import Hits
from assets.errors import DataError, message
from assets.manifest import read_manifest
from assets.reduction.plan import KIND as REDUCED_KIND
from assets.reduction.plan import read_rows, refuse_other_versions
from evaluation.concepts.fits import CLASSIFICATION_BINS, RETRIEVAL_BINS, Counts, Values

SIDES = ("joint", "text", "image")
"""Where a concept is counted: caption and picture of one pair, captions, pictures."""
HEADLINE = ("text_to_image", 10)
"""The retrieval score that is set against frequency, as published: direction and k."""
_CLASSES, _RETRIEVAL = "per_class.parquet", "per_concept.parquet"


@dataclass(frozen=True, slots=True)
class Frequencies:
    """How often training shows each of K concepts.

    Attributes:
        counts: Side -> pairs with the concept, [K]; captions alone where nobody looked at pictures.
        pairs: Pairs trained on.
        notes: What the counts do not know.
    """

    counts: Mapping[str, Counts]
    pairs: int
    notes: tuple[str, ...]

    @property
    def side(self) -> str:
        """The side that fits are made on unless said otherwise: the first of ``SIDES`` there is."""
        return next(side for side in SIDES if side in self.counts)


@dataclass(frozen=True, slots=True)
class Measure:
    """A score per concept, averaged over the seeds of a group.

    Attributes:
        scores: In 0..1, NaN for concepts that were not tested, [K].
        trials: Test images or queries of each, [K].
        bins: Of the binned fit.
    """

    scores: Values
    trials: Counts
    bins: int


def frequencies(hits: Hits, size: int, plan: pa.Table | None) -> Frequencies:
    """Count concepts over the pairs that a policy keeps, in the captions that training sees.

    Args:
        hits: Concepts of all accepted pairs.
        size: How many concepts there are, K.
        plan: Columns ``key``, ``kept``, ``caption`` and ``caption_of``; None keeps all pairs.

    Raises:
        DataError: The policy keeps pairs that the concepts were not counted in.
    """
    places = {key: row for row, key in enumerate(hits.keys.to_pylist())}
    notes: list[str] = []
    if plan is None:
        rows = sources = np.arange(len(places))
    else:
        kept = plan.filter(plan.column("kept")).to_pylist()
        if lacking := [row["key"] for row in kept if row["key"] not in places]:
            what = f"concepts were not counted in {len(lacking)} pairs that the policy keeps, the first is {lacking[0]}"
            raise DataError(message(what, fix='rerun "dvc repro concepts"'))
        rows = np.array([places[row["key"]] for row in kept], dtype=np.int64)
        # an exchanged caption is counted as what it is: that of the other pair
        sources = np.array([places.get(row["caption_of"] or row["key"], places[row["key"]]) for row in kept], np.int64)
        if written := sum(row["caption"] is not None and row["caption_of"] is None for row in kept):
            notes.append(f"{written:,} captions were rewritten by the policy; concepts are counted in the originals")
    text = hits.text.take(sources)
    counts = {"text": text.counts(size)}
    if hits.image is not None:
        image = hits.image.take(rows)
        counts |= {"image": image.counts(size), "joint": text.intersection(image).counts(size)}
    return Frequencies(counts, len(rows), tuple(notes))


def read_plan_of(folder: Path, versions: Mapping[str, str]) -> pa.Table:
    """Read what a policy keeps, after checking that it is of the same data.

    Args:
        folder: Folder ``data/reduced/P``.
        versions: Versions of ``raw`` and ``valid`` that concepts were counted in.

    Raises:
        DataError: It is missing, unfinished or of another version of the data.
    """
    made_of = read_manifest(folder, REDUCED_KIND)["inputs"]
    refuse_other_versions(folder, made_of, dict(versions))
    return read_rows(folder, ["key", "kept", "caption", "caption_of"])


def read_measures(
    reports: Path, runs: Sequence[str], names: Sequence[str], versions: Mapping[str, str]
) -> tuple[dict[str, Measure], list[str]]:
    """Read the scores of a group and average them over its runs.

    Args:
        reports: Parent of the folders of ``evaluate``.
        runs: The runs of the group.
        names: The K concepts.
        versions: Versions of ``raw`` and ``valid`` that concepts were counted in.

    Returns:
        Dotted name of the measure, such as ``zero_shot.in_domain`` -> scores per concept; and notes on what was left
        out.

    Raises:
        DataError: A run is not evaluated, was evaluated on another version of the data, or without ``zero_shot``.
    """
    places = {canonical(name): row for row, name in enumerate(names)}
    found: dict[str, list[Measure]] = {}
    notes: list[str] = []
    for run in runs:
        folder = reports / run
        refuse_other_versions(folder, read_manifest(folder, "report")["inputs"], dict(versions))
        for name, measure in _read_run(folder, places, notes).items():
            found.setdefault(name, []).append(measure)
    return {name: _pooled(measures) for name, measures in found.items()}, list(dict.fromkeys(notes))


def _read_run(folder: Path, places: Mapping[str, int], notes: list[str]) -> dict[str, Measure]:
    path = folder / _CLASSES
    if not path.is_file():
        fix = "add zero_shot to evaluation.evaluators in params.yaml and evaluate anew"
        raise DataError(message(f"{path} does not exist: the run was scored without zero-shot classes", fix=fix))
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    found = {
        f"zero_shot.{suite}": _measure(
            [(row["name"], row["top1"], row["num_images"]) for row in rows if row["suite"] == suite],
            places,
            CLASSIFICATION_BINS,
            notes,
        )
        for suite in sorted({row["suite"] for row in rows})
    }
    if (path := folder / _RETRIEVAL).is_file():
        rows = [row for row in pq.read_table(path).to_pylist() if (row["direction"], row["k"]) == HEADLINE]
        for suite in sorted({row["suite"] for row in rows}):
            told = [(row["concept"], row["recall"], row["num"]) for row in rows if row["suite"] == suite]
            name = f"retrieval.{suite}.{HEADLINE[0]}_r{HEADLINE[1]}"
            found[name] = _measure(told, places, RETRIEVAL_BINS, notes)
    return found


def _measure(told: Sequence[tuple[str, float, int]], places: Mapping[str, int], bins: int, notes: list[str]) -> Measure:
    """Put scores into the order of the concepts; classes of one name are averaged by their images."""
    hits, trials = np.zeros(len(places)), np.zeros(len(places), dtype=np.int64)
    uncounted: list[str] = []
    untested: list[str] = []
    for name, score, num in told:
        row = places.get(canonical(name))
        if row is None:
            uncounted.append(name)
        elif not num or np.isnan(score):
            untested.append(name)
        else:
            hits[row] += score * num
            trials[row] += num
    for what, listed in (("are not among the concepts", uncounted), ("have no test image", untested)):
        if listed:
            notes.append(f"{len(listed)} of {len(told)} classes {what}, such as {listed[0]}; they are left out")
    with np.errstate(invalid="ignore"):
        return Measure(hits / trials, trials, bins)


def _pooled(measures: Sequence[Measure]) -> Measure:
    """Average over runs; a concept that some run was not tested on is left out."""
    scores: npt.NDArray[np.float64] = np.mean([measure.scores for measure in measures], axis=0)
    # all seeds share the test images, so more seeds are no more trials
    trials = np.min([measure.trials for measure in measures], axis=0)
    return Measure(scores, trials, measures[0].bins)
