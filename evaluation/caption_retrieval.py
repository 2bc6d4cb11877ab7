"""Retrieval with further captions of the same pictures: in other languages, long ones, and by single text slots.

The pictures of a retrieval split are searched with another caption of theirs out of KEY.json, and these captions with
the pictures, exactly as ``retrieval.py`` does with the ordinary caption: only the own partner is right. A model whose
text side never met a language lands on chance there; one whose text side stops at a number of tokens does not read the
end of a long caption, so how many were cut stands beside the score. Translations can be coarser than the original, and
equal captions share their hits: a perfect model gets distinct captions / pictures, which ``caption_retrieval.json``
tells for every caption.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from assets.errors import DataError, message
from assets.section import Section
from assets.unit import unit
from evaluation.base import Result
from evaluation.class_scores import Columns, summarise
from evaluation.intervals import Bootstrap
from evaluation.retrieval import KS, Pairs, rank_pairs
from evaluation.sides import Array, Query, SlotTextSide, distinct

if TYPE_CHECKING:
    from evaluation.features import Features, SplitFeatures

ALL: Literal["all"] = "all"
OTHER = "other_languages"
_MEASURES = ("image_to_text_r1", "text_to_image_r1", "mean_recall")
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]


class CaptionRetrievalConfig(Section):
    """Settings of the evaluator ``caption_retrieval``."""

    languages: Literal["all"] | tuple[Name, ...]
    """Names of captions in KEY.json that are languages; ``all`` for those of dataset.json that every picture has."""
    long: tuple[Name, ...]
    """Names of captions in KEY.json that are descriptions of several sentences."""
    facets: bool
    """Whether models with frozen text also answer with each of their text slots alone, on the ordinary captions."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [*(() if self.languages == ALL else self.languages), *self.long]
        if len({metric_part(name) for name in names}) < len(names):
            raise ValueError(message("captions whose metrics have one name", ", ".join(names), "each once"))
        return self


@dataclass(frozen=True, slots=True)
class _Scored:
    """One caption of every picture of a split, searched both ways.

    Attributes:
        scores: Hits of every picture under each of ``_MEASURES``, [n, 3].
        num_distinct: Distinct captions.
        num_cut: Distinct captions that the text side cuts.
    """

    scores: npt.NDArray[np.float64]
    num_distinct: int
    num_cut: int


def metric_part(name: str) -> str:
    """Write the name of a caption or slot as part of a metric's name: ``zh-Hant`` -> ``zh_hant``."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower())


def is_english(language: str) -> bool:
    """Whether a language is English of some country."""
    return re.split(r"[-_]", language.lower())[0] == "en"


def recall_scores(
    image_features: Array, text_features: Array, text_rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Score pairs both ways, see :func:`evaluation.retrieval.rank_pairs`.

    Args:
        image_features: Unit norm, [n, D].
        text_features: Of the distinct captions, unit norm, [u, D].
        text_rows: Row of each picture's caption, [n].

    Returns:
        Expected hits at 1 of images as queries and of captions as queries, and the mean over both ways and all k,
        [n, 3].
    """
    pairs = Pairs(image_features, text_features, text_rows, np.arange(len(text_features)))
    images, texts = rank_pairs(pairs, True).hits, rank_pairs(pairs, False).hits  # [n, len(KS)] each
    both = np.concatenate([images, texts], axis=1)
    return np.stack([images[:, 0], texts[:, 0], both.mean(axis=1)], axis=1)


class CaptionRetrieval:
    """The evaluator ``caption_retrieval``: R@1 and mean recall per language, for long captions and for text slots."""

    Config: ClassVar[type[Section]] = CaptionRetrievalConfig
    needs: ClassVar[Mapping[str, frozenset[str]]] = {"retrieval": frozenset({"images", "captions", "further_captions"})}

    def __init__(self, config: CaptionRetrievalConfig, bootstrap: Bootstrap) -> None:
        self._config = config
        self._bootstrap = bootstrap

    def run(self, features: "Features") -> Result:
        """Search every split of the role ``retrieval`` with its further captions.

        Args:
            features: Image features and further captions of the splits, and the text side.

        Returns:
            Metrics and intervals per suite, and the document ``caption_retrieval``.

        Raises:
            DataError: Some pictures of a split, but not all, lack a caption that the config names.
        """
        result = Result(metrics={}, intervals={})
        told: dict[str, dict[str, Any]] = {}
        for split in features.with_role("retrieval"):
            languages, left_out = self._languages(split, features.languages, result.notes)
            by_language = {name: self._score(features, split, name, "caption") for name in languages}
            long = [name for name in self._config.long if _has(split, name, result.notes)]
            by_length = {name: self._score(features, split, name, "long") for name in long}
            scored = by_language | by_length
            others = [by_language[name] for name in languages if not is_english(name)]
            groups = [_columns(metric_part(name), one.scores) for name, one in scored.items()]
            if others:
                groups.append(_columns(OTHER, np.mean([one.scores for one in others], axis=0)))
            if self._config.facets and isinstance(features.text, SlotTextSide):
                groups += _slot_columns(split, features.text)
            metrics, intervals = summarise(groups, self._bootstrap)
            metrics |= {f"num_{metric_part(name)}_cut": one.num_cut for name, one in by_length.items()}
            metrics |= {f"num_{OTHER}_cut": sum(one.num_cut for one in others), "num_languages": len(languages)}
            metrics |= {"num_languages_left_out": left_out, **_chances(len(split.keys))}
            result.metrics[split.suite], result.intervals[split.suite] = metrics, intervals
            told[split.suite] = {
                name: {"distinct": one.num_distinct, "cut": one.num_cut} for name, one in scored.items()
            }
        result.documents["caption_retrieval"] = {"suites": told}
        return result

    def _languages(self, split: "SplitFeatures", known: Sequence[str], notes: list[str]) -> tuple[list[str], int]:
        """Return the languages to score, and how many are left out because pictures lack them."""
        wanted = self._config.languages
        if wanted == ALL:
            chosen = [name for name in known if _num_lacking(split, name) == 0]
            return chosen, len(known) - len(chosen)
        chosen = [name for name in wanted if _has(split, name, notes)]
        return chosen, len(wanted) - len(chosen)

    def _score(self, features: "Features", split: "SplitFeatures", name: str, query: Query) -> _Scored:
        texts, rows = distinct([str(caption) for caption in split.further_captions[name]])
        scores = recall_scores(split.image_features, features.text.encode(texts, query), rows)
        return _Scored(scores, len(texts), features.text.count_cut(texts, query))


def _num_lacking(split: "SplitFeatures", name: str) -> int:
    captions = split.further_captions.get(name)
    return len(split.keys) if captions is None else sum(caption is None for caption in captions)


def _has(split: "SplitFeatures", name: str, notes: list[str]) -> bool:
    """Whether all pictures of a split have a caption; none of them having it is noted, anything between is refused."""
    lacking, number = _num_lacking(split, name), len(split.keys)
    if lacking == number:
        notes.append(f"no picture of split {split.split} has a caption {name!r} in its KEY.json, so it is not scored")
    elif lacking:
        key = split.keys[list(split.further_captions[name]).index(None)]
        what = f"split {split.split}: {lacking} of {number} pictures have no caption {name!r} in their KEY.json ({key})"
        fix = "take it out of evaluation.evaluators.caption_retrieval, or ingest a source that writes it for all"
        raise DataError(message(what, fix=fix))
    return lacking == 0


def _columns(part: str, scores: npt.NDArray[np.float64]) -> Columns:
    return tuple(f"{part}_{measure}" for measure in _MEASURES), scores


def _slot_columns(split: "SplitFeatures", text: SlotTextSide) -> list[Columns]:
    """Score the ordinary captions by each text slot alone, and by the mean of all."""
    assert split.text_rows is not None
    rows = text.encode_slots(split.texts)  # [u, S, D]
    sides = {metric_part(name): rows[:, slot] for slot, name in enumerate(text.slots)}
    sides["mean"] = unit(rows.mean(axis=1))
    return [
        (
            tuple(f"facet_{name}_{measure}" for measure in _MEASURES[:2]),
            recall_scores(split.image_features, side, split.text_rows)[:, :2],
        )
        for name, side in sides.items()
    ]


def _chances(pairs: int) -> dict[str, float | int]:
    chances = [min(k, pairs) / pairs for k in KS]
    return {"chance_r1": chances[0], "chance_mean_recall": float(np.mean(chances)), "num_pairs": pairs}
