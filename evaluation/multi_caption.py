"""Retrieval with several captions per picture, the protocol of COCO and Flickr30k (Karpathy and Fei-Fei 2015).

With images as queries all captions of the split are candidates, and a hit is *any* own caption among the first k. With
captions as queries each one counts on its own and only its picture is right. Ties count as their expectation
(``ranking.py``). ``retrieval.py`` knows one caption per picture; on a set where each has one, both agree.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from assets.section import Section
from evaluation.base import Interval, Result
from evaluation.class_scores import summarise
from evaluation.intervals import Bootstrap
from evaluation.ranking import cosines, count_above, expected_hits
from evaluation.sides import Array, distinct

if TYPE_CHECKING:
    from evaluation.features import Features, SplitFeatures

KS = (1, 5, 10)
_NAMES = (*(f"image_to_text_r{k}" for k in KS), *(f"text_to_image_r{k}" for k in KS))
_QUERIES_AT_ONCE = 512
Hits = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


class MultiCaptionConfig(Section):
    """Settings of the evaluator ``multi_caption``; it has none."""


def image_hits(image_features: Array, text_features: Array, owners: Rows) -> Hits:
    """Search captions with images.

    Args:
        image_features: Unit norm, [n, D].
        text_features: Of all captions, unit norm, [m, D].
        owners: Picture of each caption, every picture at least once, [m].

    Returns:
        Expected hits for each k of ``KS``, [n, len(KS)].
    """
    return _hits(image_features, text_features, np.arange(len(image_features)), owners)


def text_hits(image_features: Array, text_features: Array, owners: Rows) -> Hits:
    """Search images with captions.

    Args:
        image_features: Unit norm, [n, D].
        text_features: Of all captions, unit norm, [m, D].
        owners: Picture of each caption, [m].

    Returns:
        Expected hits for each k of ``KS``, [m, len(KS)].
    """
    return _hits(text_features, image_features, owners, np.arange(len(image_features)))


def _hits(queries: Array, candidates: Array, of_queries: Rows, of_candidates: Rows) -> Hits:
    """Return the expected hits of queries whose right candidates belong to the same picture, [queries, len(KS)]."""
    parts: list[Hits] = []
    one = np.ones(len(candidates), dtype=np.int64)
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        rows = slice(start, start + _QUERIES_AT_ONCE)
        relevant = of_queries[rows, None] == of_candidates
        counts = count_above(cosines(queries[rows], candidates), relevant, one)
        parts.append(np.stack([expected_hits(*counts, k) for k in KS], axis=1))
    return np.concatenate(parts)


class MultiCaption:
    """The evaluator ``multi_caption``: R@1, R@5, R@10 in both directions with all captions of every picture."""

    Config: ClassVar[type[Section]] = MultiCaptionConfig
    needs: ClassVar[Mapping[str, frozenset[str]]] = {"retrieval": frozenset({"images", "caption_sets"})}

    def __init__(self, config: MultiCaptionConfig, bootstrap: Bootstrap) -> None:
        self._bootstrap = bootstrap

    def run(self, features: "Features") -> Result:
        """Search every split of the role ``retrieval`` that has several captions per picture.

        Args:
            features: Image features and caption sets of the splits, and the text side.

        Returns:
            Metrics and intervals per suite; splits without caption sets are noted.
        """
        result = Result(metrics={}, intervals={})
        for split in features.with_role("retrieval"):
            if not split.caption_sets:
                result.notes.append(f"no picture of split {split.split} has several captions, so it is not scored")
                continue
            result.metrics[split.suite], result.intervals[split.suite] = self._score(split, features)
        return result

    def _score(
        self, split: "SplitFeatures", features: "Features"
    ) -> tuple[dict[str, float | int], dict[str, Interval]]:
        sizes = np.array([len(captions) for captions in split.caption_sets], dtype=np.int64)
        owners = np.repeat(np.arange(len(sizes)), sizes)
        texts, rows = distinct([caption for captions in split.caption_sets for caption in captions])
        text_features = features.text.encode(texts)[rows]  # [m, D]
        scores = both_ways(split.image_features, text_features, owners)
        names = (*_NAMES, "mean_recall")
        columns = np.concatenate([scores, scores.mean(axis=1, keepdims=True)], axis=1)
        metrics, intervals = summarise([(names, columns)], self._bootstrap)
        # the bootstrap draws pictures, and one with more captions than most may count for more than 1
        bounds = {name: (min(low, 1.0), min(high, 1.0)) for name, (low, high) in intervals.items()}
        cut = features.text.count_cut(texts)
        counts = {"num_images": len(sizes), "num_captions": len(owners), "num_captions_cut": cut}
        return {**metrics, **_chances(sizes), **counts}, bounds


def both_ways(image_features: Array, text_features: Array, owners: Rows) -> Hits:
    """Score pictures, which are the units of the bootstrap: captions of one picture are no independent draws.

    Args:
        image_features: Unit norm, [n, D].
        text_features: Of all captions, unit norm, [m, D].
        owners: Picture of each caption, ascending, every picture at least once, [m].

    Returns:
        Expected hits of each picture as a query, and those of its captions as queries, weighted such that the mean over
        pictures is the mean over captions, [n, 2 * len(KS)].
    """
    num_images = len(image_features)
    sums = np.zeros((num_images, len(KS)))
    np.add.at(sums, owners, text_hits(image_features, text_features, owners))
    by_image = image_hits(image_features, text_features, owners)
    return np.concatenate([by_image, sums * (num_images / len(owners))], axis=1)


def _chances(sizes: Rows) -> dict[str, float]:
    """Return what constant scores get, with as many captions per picture."""
    pictures, captions = len(sizes), int(sizes.sum())
    above, all_tied = np.zeros(pictures, dtype=np.int64), np.full(pictures, captions)
    values: Sequence[float] = [
        *(float(expected_hits(above, all_tied, sizes, k).mean()) for k in KS),
        *(min(k, pictures) / pictures for k in KS),
    ]
    found = {f"chance_{name}": value for name, value in zip(_NAMES, values, strict=True)}
    return {**found, "chance_mean_recall": float(np.mean(values))}
