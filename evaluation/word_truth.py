"""Are the words of a word vector true? And what is left of search once the vectors are cut to their words?

Only for models whose dimensions are words. Retrieval and localisation cannot tell: both survive any permutation of the
words, so a model can be good at them while its words are noise. What is true of a picture comes from its KEY.json (see
``true_words.py``), what is true of a caption from the caption. Precision is over the strongest words of each vector.
An object is recalled when one of the words of its name is active; objects none of whose words the model has are left
out. ``chance_*`` draws words at random: the strongest ones, or as many as are active on average.

Some numbers are no scores, a higher one is not better: they are called ``num_*``, as counts are, so that no table ranks
by them. ``num_top_word_share_*`` is the share of vectors in which the most widespread word is active,
``num_junk_share_*`` the share of squared weight, after the cut, on words that no training caption contains;
``num_overuse_*`` and ``num_flops_*`` are the penalties of training (LexVLA: Li et al., arXiv 2407.17827, equations 6
and 7) on the vectors before the cut. All of texts is over the distinct captions.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from assets.section import Section
from evaluation.base import Interval, Result
from evaluation.class_scores import summarise
from evaluation.intervals import Bootstrap
from evaluation.picture_intervals import ratio, score_interval
from evaluation.retrieval import draw_order
from evaluation.scene_objects import scene_objects
from evaluation.sides import Array
from evaluation.true_words import WordForms, words_in
from evaluation.word_measures import (
    Usage,
    chance_of_one,
    cut_rows,
    mass_share,
    mean_overlap,
    overuse,
    places_of,
    recalls_at_one,
    strongest,
    usage,
)
from evaluation.words.cut import CutConfig

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from assets.language.lexicon import Lexicon
    from evaluation.features import Features, SplitFeatures

TABLE = "active_words"
_STRONGEST, _OF_PICTURE, _OF_CAPTION = 10, 5, 3
Metrics = dict[str, float | int]
Intervals = dict[str, Interval]


class WordsConfig(Section):
    """Settings of the evaluator ``words``."""

    at_most: int = Field(default=300, ge=1)
    """Words per vector of the second search, the largest ones, above average or not."""
    examples: int = Field(default=8, ge=0, le=1000)
    """Pictures per suite whose words are written down."""


@dataclass(frozen=True, slots=True)
class Side:
    """The vectors of one side of a split.

    Attributes:
        name: ``image`` or ``text``.
        vectors: As the model gives them, unit norm, [n, V].
        kept: Words above average, [n, V].
        used: How widespread words are in ``kept``.
    """

    name: str
    vectors: Array
    kept: "csr_matrix"
    used: Usage

    @classmethod
    def of(cls, name: str, vectors: Array) -> "Side":
        """Cut the vectors of a side."""
        kept = cut_rows(vectors, CutConfig())
        return cls(name, vectors, kept, usage(kept))


@dataclass(frozen=True, slots=True)
class Speech:
    """The model's words and the language they are of.

    Attributes:
        lexicon: The words.
        places: Word in lower case -> its places.
        forms: Singular and plural.
    """

    lexicon: "Lexicon"
    places: Mapping[str, Sequence[int]]
    forms: WordForms

    def known(self, words: Iterable[str]) -> frozenset[int]:
        """Return the places of those words that the model has."""
        return frozenset(place for word in words for place in self.places.get(word, ()))


def precision(
    ranked: npt.NDArray[np.int64], true: Sequence[frozenset[int]], number: int, num_words: int
) -> tuple[npt.NDArray[np.float64], float]:
    """Return which share of the strongest words is true, and what words at random get.

    Args:
        ranked: Words by falling weight, [n, at least number].
        true: The words that are true of each vector, [n].
        number: How many words count.
        num_words: V.

    Returns:
        Shares, [n], and the mean share of all words that is true.
    """
    shares = [
        np.mean([word in right for word in row[:number]]) for row, right in zip(ranked.tolist(), true, strict=True)
    ]
    return np.array(shares, dtype=np.float64), float(np.mean([len(right) for right in true])) / num_words


class Words:
    """The evaluator ``words``: true words, recalled objects, search with cut vectors, and how words are used."""

    Config: ClassVar[type[Section]] = WordsConfig
    needs: ClassVar[Mapping[str, frozenset[str]]] = {"retrieval": frozenset({"images", "captions", "metadata"})}

    def __init__(self, config: WordsConfig, bootstrap: Bootstrap) -> None:
        self._config = config
        self._bootstrap = bootstrap

    def run(self, features: "Features") -> Result:
        """Look at the words of every split of the role ``retrieval``.

        Args:
            features: Image and caption features of the splits, what is true of their pictures, and the words.

        Returns:
            Metrics and intervals per suite, the table ``active_words`` and the document ``words``; only a note for a
            model whose dimensions are no words.
        """
        result = Result(metrics={}, intervals={})
        splits = features.with_role("retrieval")
        if features.lexicon is None:
            if splits:
                result.notes.append("the dimensions of this model are no words, so there are none to look at")
            return result
        speech = Speech(features.lexicon, places_of(features.lexicon.words), WordForms())
        result.tables[TABLE] = []
        told: dict[str, Any] = {}
        for split in splits:
            assert split.text_features is not None and split.text_rows is not None
            images, texts = Side.of("image", split.image_features), Side.of("text", split.text_features)
            found = [self._search(images, texts, split.text_rows), self._captions(split, texts, speech)]
            ranked = strongest(images.vectors, min(_STRONGEST, len(speech.lexicon.words)))
            if any(scene_objects(metadata) for metadata in split.metadata):
                true = [speech.known(speech.forms.of_picture(metadata)) for metadata in split.metadata]
                found.append(self._pictures(split, images, ranked, true, speech))
                told[split.suite] = self._examples(split, ranked, true, speech)
            else:
                result.notes.append(
                    f"no picture of split {split.split} has objects in KEY.json: no word can be checked"
                )
            result.metrics[split.suite] = _usage_numbers(images, texts, speech.lexicon)
            result.intervals[split.suite] = {}
            for metrics, intervals in found:
                result.metrics[split.suite] |= metrics
                result.intervals[split.suite] |= intervals
            captions = [speech.known(speech.forms.close(words_in(text))) for text in split.texts]
            for side in (images, texts):
                result.tables[TABLE] += _widespread(split.suite, side, captions, speech.lexicon)
        result.documents["words"] = {"suites": told}
        return result

    def _search(self, images: Side, texts: Side, text_rows: npt.NDArray[np.int64]) -> tuple[Metrics, Intervals]:
        """Search with cut vectors, and with at most so many words."""
        most = CutConfig(above=0.0, at_most=self._config.at_most)
        limited = (cut_rows(images.vectors, most), cut_rows(texts.vectors, most))
        metrics, intervals = summarise(
            [
                (("image_to_text_r1", "text_to_image_r1"), recalls_at_one(images.kept, texts.kept, text_rows)),
                (("image_to_text_at_most_r1", "text_to_image_at_most_r1"), recalls_at_one(*limited, text_rows)),
            ],
            self._bootstrap,
        )
        return {**metrics, "chance_r1": 1 / len(text_rows), "num_pairs": len(text_rows)}, intervals

    def _captions(self, split: "SplitFeatures", texts: Side, speech: Speech) -> tuple[Metrics, Intervals]:
        """Compare the strongest words of captions with the captions."""
        num_words = len(speech.lexicon.words)
        ranked = strongest(texts.vectors, min(_OF_CAPTION, num_words))
        true = [speech.known(speech.forms.close(words_in(text))) for text in split.texts]
        shares, chance = precision(ranked, true, _OF_CAPTION, num_words)
        name = f"caption_precision_{_OF_CAPTION}"
        metrics, intervals = summarise([((name,), shares[:, None])], self._bootstrap)
        return {**metrics, f"chance_{name}": chance}, intervals

    def _pictures(
        self,
        split: "SplitFeatures",
        images: Side,
        ranked: npt.NDArray[np.int64],
        true: Sequence[frozenset[int]],
        speech: Speech,
    ) -> tuple[Metrics, Intervals]:
        """Compare the words of pictures with what KEY.json says of them."""
        num_words = len(speech.lexicon.words)
        names = [sorted({item.name for item in scene_objects(metadata)}) for metadata in split.metadata]
        objects = [[speech.known(speech.forms.of_name(name)) for name in found] for found in names]  # words of each
        together = [frozenset[int]().union(*found) for found in objects]
        words, by_name = f"word_precision_{_OF_PICTURE}", f"object_precision_{_OF_PICTURE}"
        all_shares, all_chance = precision(ranked, true, _OF_PICTURE, num_words)
        name_shares, name_chance = precision(ranked, together, _OF_PICTURE, num_words)
        metrics, intervals = summarise(
            [((words, by_name), np.stack([all_shares, name_shares], axis=1))], self._bootstrap
        )
        metrics |= {f"chance_{words}": all_chance, f"chance_{by_name}": name_chance}
        known = [[found for found in picture if found] for picture in objects]
        metrics |= {"num_objects": sum(map(len, objects)), "num_objects_known": sum(map(len, known))}
        active = images.kept.getnnz(axis=1).mean()
        for name, drawn, seen in (
            ("object_recall", float(active), _active(images.kept)),
            (f"object_recall_{_STRONGEST}", float(ranked.shape[1]), lambda row: frozenset(ranked[row].tolist())),
        ):
            chance = [chance_of_one(len(found), drawn, num_words) for picture in known for found in picture]
            if chance:
                parts = np.array(
                    [
                        [sum(bool(found & seen(row)) for found in picture), len(picture)]
                        for row, picture in enumerate(known)
                    ]
                )
                metrics |= {
                    name: float(parts[:, 0].sum() / parts[:, 1].sum()),
                    f"chance_{name}": float(np.mean(chance)),
                }
                intervals[name] = score_interval(parts, ratio, self._bootstrap)
        return metrics, intervals

    def _examples(
        self, split: "SplitFeatures", ranked: npt.NDArray[np.int64], true: Sequence[frozenset[int]], speech: Speech
    ) -> list[dict[str, Any]]:
        """Write down the words of some pictures, drawn by a hash of their keys."""
        words = speech.lexicon.words
        return [
            {
                "key": split.keys[row],
                "true": sorted(speech.forms.of_picture(split.metadata[row])),
                "words": [
                    {"word": words[word], "weight": float(split.image_features[row, word]), "true": word in true[row]}
                    for word in ranked[row].tolist()
                ],
            }
            for row in draw_order(split.keys)[: self._config.examples]
        ]


def _active(kept: "csr_matrix") -> Callable[[int], frozenset[int]]:
    return lambda row: frozenset(kept.indices[kept.indptr[row] : kept.indptr[row + 1]].tolist())


def _usage_numbers(images: Side, texts: Side, lexicon: "Lexicon") -> Metrics:
    """Return what is no score: how many words are active, how widespread, and how much is on words without captions."""
    junk = np.array(lexicon.counts) == 0
    metrics: Metrics = {"num_words": len(lexicon.words)}
    for side in (images, texts):
        rows = len(side.vectors)
        metrics |= {
            f"num_active_{side.name}": round(float(side.used.active.sum()) / rows, 1),
            f"num_top_word_share_{side.name}": float(side.used.active.max()) / rows,
            f"num_junk_share_{side.name}": mass_share(side.used, junk),
            f"num_overuse_{side.name}": overuse(side.vectors),
            f"num_flops_{side.name}": mean_overlap(side.vectors),
        }
    return metrics


def _widespread(
    suite: str, side: Side, captions: Sequence[frozenset[int]], lexicon: "Lexicon"
) -> list[dict[str, str | int | float]]:
    """Return the rows of ``active_words`` of one side: words that are active in some vector, widespread ones first."""
    active = side.used.active
    chosen = np.argsort(-active, kind="stable")[: np.count_nonzero(active)].tolist()
    return [
        {
            "suite": suite,
            "side": side.name,
            "word": lexicon.words[word],
            "rank": rank,
            "share": float(active[word]) / len(side.vectors),
            "mean_weight": float(side.used.weights[word]) / max(int(active[word]), 1),
            "caption_share": sum(word in found for found in captions) / len(captions),
            "train_captions": lexicon.counts[word],
        }
        for rank, word in enumerate(chosen, 1)
    ]
