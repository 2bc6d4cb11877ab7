"""Compositional pairs: is the picture closer to a true sentence than to one that differs in a single point?

A pair counts as right when the cosine of picture and caption is above that of picture and foil, and half when they tie
(``ranking.py``): a model without skill gets 0.5. Foils are made from KEY.json where it lists all objects
(``foils.py``), or come with the data, as ``"foils": {kind: text}`` of KEY.json, in the manner of ARO (Yuksekgonul et
al. 2023, https://arxiv.org/abs/2210.01936) and SugarCrepe (Hsieh et al. 2023, https://arxiv.org/abs/2306.14610).

A foil that can be told from its caption without the picture measures the taste of the text side (SugarCrepe's criticism
of earlier sets). ``num_blind_*`` is the control: the same pairs, asked of other pictures of the split. Where it is far
above 0.5, the foils read worse than the captions, and an ``accuracy`` no higher than it shows no understanding at all;
a model that looks is above it.

Where samples come in twos with the same ``pair`` in KEY.json, each one's caption being the foil of the other, the
measures of Winoground (Thrush et al. 2022, https://arxiv.org/abs/2204.03162) are taken as well.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from assets.section import Section
from evaluation.base import Interval, Result
from evaluation.class_scores import summarise
from evaluation.composition.kinds import KINDS, FoilKind, given_foils
from evaluation.composition.pairs import CHANCES, MEASURES, pair_scores, paired_rows
from evaluation.intervals import Bootstrap
from evaluation.picture_intervals import score_interval
from evaluation.ranking import STEP
from evaluation.retrieval import draw_order
from evaluation.sides import Array, TextSide, distinct

if TYPE_CHECKING:
    from evaluation.features import Features, SplitFeatures

_OTHER_PICTURES = 8
Floats = npt.NDArray[np.float64]


class CompositionConfig(Section):
    """Settings of the evaluator ``composition``."""

    kinds: tuple[FoilKind, ...] = KINDS
    """Foils that are made from KEY.json, in addition to those that it brings along; may be empty."""
    images: int = Field(default=500, ge=2)
    """Pictures per split at most, chosen by a hash of their keys."""
    examples: int = Field(default=20, ge=0)
    """Pairs per suite and kind in the table ``foils``."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.kinds)) < len(self.kinds):
            raise ValueError("kinds must each be named once")
        return self


@dataclass(frozen=True, slots=True)
class Question:
    """One pair of sentences about one picture.

    Attributes:
        kind: What is wrong in the foil.
        row: Place of the picture in the split.
        caption: True of the picture.
        foil: False of it.
    """

    kind: str
    row: int
    caption: str
    foil: str


def preferences(image_features: Array, captions: Array, foils: Array) -> Floats:
    """Say whether pictures prefer captions to foils.

    Args:
        image_features: Unit norm, [n, D].
        captions: Unit norm, [n, D].
        foils: Unit norm, [n, D].

    Returns:
        1 where the caption is closer, 0 where the foil is, 0.5 where they tie, [n].
    """
    images = image_features.astype(np.float64)
    true, false = (np.rint(np.einsum("ij,ij->i", images, side) / STEP) for side in (captions, foils))
    return 0.5 + 0.5 * np.sign(true - false)


def blind_preferences(image_features: Array, rows: Sequence[int], captions: Array, foils: Array) -> Floats | None:
    """Ask the same questions of other pictures.

    Args:
        image_features: Of the split, unit norm, [n, D].
        rows: Place of each question's picture, [q].
        captions: Unit norm, [q, D].
        foils: Unit norm, [q, D].

    Returns:
        Mean preference of up to eight other pictures that were asked about, [q]; None where there is only one picture.
    """
    asked, places = np.unique(np.array(rows), return_inverse=True)
    shifts = range(1, min(_OTHER_PICTURES, len(asked) - 1) + 1)
    found = [preferences(image_features[asked[(places + by) % len(asked)]], captions, foils) for by in shifts]
    return np.mean(found, axis=0) if found else None


class Composition:
    """The evaluator ``composition``: accuracy per kind of foil, and what is had without looking."""

    Config: ClassVar[type[Section]] = CompositionConfig
    needs: ClassVar[Mapping[str, frozenset[str]]] = {"retrieval": frozenset({"images", "captions", "metadata"})}

    def __init__(self, config: CompositionConfig, bootstrap: Bootstrap) -> None:
        self._config = config
        self._bootstrap = bootstrap

    def run(self, features: "Features") -> Result:
        """Ask about the pictures of every split of the role ``retrieval``.

        Args:
            features: Image features, captions and KEY.json of the splits, the classes, and the text side.

        Returns:
            Metrics and intervals per suite, and the table ``foils``; notes on splits without foils.

        Raises:
            DataError: Foils or pairs of KEY.json are not what they should be.
        """
        result = Result(metrics={}, intervals={})
        splits = features.with_role("retrieval")
        # what is wrong in KEY.json must come out before texts are encoded
        asked = [self._questions(split, features, result.notes) for split in splits]
        paired = [paired_rows(split.metadata, split.split) for split in splits]
        for split, questions, pairs in zip(splits, asked, paired, strict=True):
            metrics, intervals = self._pairs(split, pairs)
            if questions:
                more, bounds = self._score(split, questions, features.text, result)
                metrics, intervals = more | metrics, bounds | intervals
            if metrics:
                result.metrics[split.suite], result.intervals[split.suite] = metrics, intervals
            else:
                why = "no foils, and none can be made: that takes objects with boxes, and counts that confirm them"
                result.notes.append(f"split {split.split}: KEY.json has {why}")
        return result

    def _questions(self, split: "SplitFeatures", features: "Features", notes: list[str]) -> list[Question]:
        """Collect the pairs of sentences about a split's pictures, in the order of their hash."""
        # takes half a second to import, and this module is imported wherever params.yaml is read
        from evaluation.composition.foils import FoilMaker
        from evaluation.composition.scene import read_scene

        assert split.text_rows is not None
        scenes = [read_scene(told) for told in split.metadata]
        maker = FoilMaker(features.classes, [scene for scene in scenes if scene])
        found: list[Question] = []
        same = 0
        for row in draw_order(split.keys)[: self._config.images]:
            caption, key, scene = split.texts[split.text_rows[row]], split.keys[row], scenes[row]
            given = given_foils(split.metadata[row], key)
            same += sum(foil == caption for foils in given.values() for foil in foils)
            found += [
                Question(kind, row, caption, foil) for kind, foils in given.items() for foil in foils if foil != caption
            ]
            for kind in self._config.kinds if scene else ():
                if kind not in given and scene and (made := maker.make(kind, key, caption, scene)):
                    found.append(Question(kind, row, *made))
        if same:
            notes.append(f"split {split.split}: {same} foils of KEY.json equal their caption and are left out")
        return found

    def _score(
        self, split: "SplitFeatures", questions: Sequence[Question], text: TextSide, result: Result
    ) -> tuple[dict[str, float | int], dict[str, Interval]]:
        """Answer the questions about one split, and add its rows to the table."""
        texts, places = distinct([said for question in questions for said in (question.caption, question.foil)])
        vectors = text.encode(texts)
        captions, foils = vectors[places[::2]], vectors[places[1::2]]
        rows = [question.row for question in questions]
        right = preferences(split.image_features[rows], captions, foils)
        by_kind: dict[str, list[int]] = defaultdict(list)
        for number, question in enumerate(questions):
            by_kind[question.kind].append(number)
        pictures = sorted(set(rows))
        place = {row: number for number, row in enumerate(pictures)}
        parts = np.zeros((len(pictures), len(by_kind), 2))  # what each picture adds to score and number of each kind
        metrics: dict[str, float | int] = {"num_images": len(pictures), "chance_accuracy": 0.5}
        intervals: dict[str, Interval] = {}
        blind: list[float] = []
        for column, (kind, chosen) in enumerate(sorted(by_kind.items())):
            for number in chosen:
                parts[place[rows[number]], column] += (right[number], 1)
            metrics |= {f"{kind}_accuracy": float(right[chosen].mean()), f"num_{kind}": len(chosen)}
            intervals[f"{kind}_accuracy"] = score_interval(
                parts[:, column : column + 1], _mean_of_kinds, self._bootstrap
            )
            asked = [rows[number] for number in chosen]
            unseen = blind_preferences(split.image_features, asked, captions[chosen], foils[chosen])
            if unseen is not None:
                blind.append(float(unseen.mean()))
                metrics[f"num_blind_{kind}"] = blind[-1]
            shown = chosen[: self._config.examples]
            if shown:
                result.tables.setdefault("foils", []).extend(_rows(split, questions, right, shown))
        metrics["accuracy"] = float(_mean_of_kinds(parts.sum(axis=0)[None])[0])
        intervals["accuracy"] = score_interval(parts, _mean_of_kinds, self._bootstrap)
        if len(blind) == len(by_kind):
            metrics["num_blind_accuracy"] = float(np.mean(blind))
        return metrics, intervals

    def _pairs(
        self, split: "SplitFeatures", pairs: Sequence[tuple[int, int]]
    ) -> tuple[dict[str, float | int], dict[str, Interval]]:
        """Score the samples of one split that come in twos; nothing where there are none."""
        if not pairs:
            return {}, {}
        assert split.text_features is not None and split.text_rows is not None
        scores = pair_scores(split.image_features, split.text_features[split.text_rows], pairs)
        metrics, intervals = summarise([(MEASURES, scores)], self._bootstrap)
        return {**metrics, **CHANCES, "num_pairs": len(pairs)}, intervals


def _mean_of_kinds(sums: Floats) -> Floats:
    """Average score / number over the kinds that have a number, [draws, kinds, 2] -> [draws]; nan where none has."""
    there = sums[..., 1] > 0
    shares = np.where(there, sums[..., 0] / np.where(there, sums[..., 1], 1), 0)
    kinds = there.sum(axis=1)
    return np.where(kinds > 0, shares.sum(axis=1) / np.maximum(kinds, 1), np.nan)


def _rows(
    split: "SplitFeatures", questions: Sequence[Question], right: Floats, shown: Sequence[int]
) -> list[dict[str, Any]]:
    """Return rows of ``foils.parquet``."""
    return [
        {
            "suite": split.suite,
            "kind": questions[number].kind,
            "key": split.keys[questions[number].row],
            "caption": questions[number].caption,
            "foil": questions[number].foil,
            "right": float(right[number]),
        }
        for number in shown
    ]
