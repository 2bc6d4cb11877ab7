"""Image-text retrieval: does the pair's other half come among the first 1, 5 or 10 of the whole split?

Two readings of "right", both reported, in both directions:

- ``image_to_text_r1`` etc. is the standard one: only the query's own partner is right. Several images may share one
  caption word for word; the copies tie, and a tie counts as its expectation (``ranking.py``), so with two copies a
  perfect model gets one half.
- ``image_to_text_group_r1`` etc. takes captions as equal when they agree up to case and spacing, and every pair of the
  query's caption group is right. Short captions repeat often; here a perfect model gets 1.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from assets.section import Section
from evaluation.base import Interval, Result
from evaluation.intervals import Bootstrap
from evaluation.ranking import STEP, cosines, count_above, expected_hits

if TYPE_CHECKING:
    from evaluation.features import Features, SplitFeatures

KS = (1, 5, 10)
_QUERIES_AT_ONCE = 1024


class RetrievalConfig(Section):
    """Settings of the evaluator ``retrieval``."""

    examples: int = Field(ge=0, le=1000)
    """Example queries kept per suite, direction and kind (drawn, failed)."""
    candidates: int = Field(ge=1, le=100)
    """Retrieved items kept per example query."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """The pairs of one split as rankings need them.

    Attributes:
        image_features: Unit norm, one row per pair, [n, D].
        text_features: Unit norm, one row per distinct caption string, [u, D].
        text_rows: Row of each pair's caption in ``text_features``, [n].
        groups: Caption group of each distinct caption, [u].
    """

    image_features: npt.NDArray[np.float32]
    text_features: npt.NDArray[np.float32]
    text_rows: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Ranks:
    """Where the right candidates of each query stand; arrays are [n], hits are [n, len(KS)].

    Attributes:
        hits: Expected hits when only the own partner is right.
        group_hits: Expected hits when the whole caption group is right.
        group_rank: Expected place of the first right candidate of the group, from 1.
        chance: Expected hits of constant scores when only the own partner is right, [len(KS)].
        group_chance: Expected hits of constant scores when the caption group is right, [n, len(KS)].
    """

    hits: npt.NDArray[np.float64]
    group_hits: npt.NDArray[np.float64]
    group_rank: npt.NDArray[np.float64]
    chance: npt.NDArray[np.float64]
    group_chance: npt.NDArray[np.float64]


def caption_groups(captions: Sequence[str]) -> npt.NDArray[np.int64]:
    """Number the groups of captions that agree up to case and spacing, [len(captions)]."""
    numbers: dict[str, int] = {}
    return np.array(
        [numbers.setdefault(" ".join(c.casefold().split()), len(numbers)) for c in captions], dtype=np.int64
    )


def rank_pairs(pairs: Pairs, image_queries: bool) -> Ranks:
    """Rank all candidates of a split for each of its pairs.

    Args:
        pairs: The split.
        image_queries: True to search captions with images, False to search images with captions.

    Returns:
        Hits and ranks of every pair as a query, in the order of the pairs.
    """
    n = len(pairs.image_features)
    pair_groups = pairs.groups[pairs.text_rows]  # [n]
    if image_queries:
        own, candidate_groups = pairs.text_rows, pairs.groups
        weights = np.bincount(pairs.text_rows, minlength=len(pairs.groups)).astype(np.int64)
    else:
        own, candidate_groups, weights = np.arange(n), pair_groups, np.ones(n, dtype=np.int64)
    one = np.ones(n, dtype=np.int64)
    single: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = []
    grouped: list[tuple[npt.NDArray[np.int64], ...]] = []
    for start in range(0, n, _QUERIES_AT_ONCE):
        rows = np.arange(start, min(start + _QUERIES_AT_ONCE, n))
        scores = _scores(pairs, image_queries, rows)  # [queries, candidates]
        only = own[rows, None] == np.arange(scores.shape[1])
        greater, tied, _ = count_above(scores, only, weights)
        single.append((greater, tied))
        grouped.append(count_above(scores, pair_groups[rows, None] == candidate_groups, weights))
    greater, tied = (np.concatenate(part) for part in zip(*single, strict=True))
    group_greater, group_tied, group_right = (np.concatenate(part) for part in zip(*grouped, strict=True))
    sizes = np.bincount(pair_groups)[pair_groups]
    nothing, everything = np.zeros(n, dtype=np.int64), np.full(n, n)
    return Ranks(
        hits=np.stack([expected_hits(greater, tied, one, k) for k in KS], axis=1),
        group_hits=np.stack([expected_hits(group_greater, group_tied, group_right, k) for k in KS], axis=1),
        group_rank=1 + group_greater + (group_tied - group_right) / (group_right + 1),
        chance=np.array([min(k, n) / n for k in KS]),
        group_chance=np.stack([expected_hits(nothing, everything, sizes, k) for k in KS], axis=1),
    )


def _scores(pairs: Pairs, image_queries: bool, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Return the quantised scores of some pairs as queries, [queries, candidates]."""
    if image_queries:
        return cosines(pairs.image_features[rows], pairs.text_features)
    return cosines(pairs.text_features[pairs.text_rows[rows]], pairs.image_features)


def draw_order(keys: Sequence[str]) -> list[int]:
    """Return positions in an order that looks random but depends on the keys alone, so all models show the same."""
    return sorted(range(len(keys)), key=lambda i: (hashlib.blake2b(keys[i].encode(), digest_size=8).digest(), keys[i]))


class Retrieval:
    """The evaluator ``retrieval``: R@1, R@5, R@10 in both directions, plain and by caption group."""

    Config: ClassVar[type[Section]] = RetrievalConfig
    needs: ClassVar[Mapping[str, frozenset[str]]] = {"retrieval": frozenset({"images", "captions"})}

    def __init__(self, config: RetrievalConfig, bootstrap: Bootstrap) -> None:
        self._config = config
        self._bootstrap = bootstrap

    def run(self, features: "Features") -> Result:
        """Search every split of the role ``retrieval``.

        Args:
            features: Image and caption features of the splits.

        Returns:
            Metrics and intervals per suite, the document ``retrieval`` with example queries, and the table
            ``per_query``.
        """
        result = Result(metrics={}, intervals={}, tables={"per_query": []})
        examples: dict[str, dict[str, Any]] = {}
        for split in features.with_role("retrieval"):
            assert split.text_features is not None and split.text_rows is not None
            pairs = Pairs(split.image_features, split.text_features, split.text_rows, caption_groups(split.texts))
            ranks = {"image_to_text": rank_pairs(pairs, True), "text_to_image": rank_pairs(pairs, False)}
            metrics, intervals = self._summarise(ranks)
            result.metrics[split.suite] = metrics
            result.intervals[split.suite] = intervals
            result.tables["per_query"] += _query_rows(split, ranks)
            examples[split.suite] = {
                direction: self._examples(split, pairs, direction == "image_to_text", found)
                for direction, found in ranks.items()
            }
        result.documents["retrieval"] = {"suites": examples}
        return result

    def _summarise(self, ranks: Mapping[str, Ranks]) -> tuple[dict[str, float | int], dict[str, Interval]]:
        """Average over queries; ``mean_recall`` is the mean of the six plain R@k."""
        columns: dict[str, npt.NDArray[np.float64]] = {}
        for direction, found in ranks.items():
            for place, k in enumerate(KS):
                columns[f"{direction}_r{k}"] = found.hits[:, place]
                columns[f"{direction}_group_r{k}"] = found.group_hits[:, place]
        columns["mean_recall"] = np.mean([found.hits.mean(axis=1) for found in ranks.values()], axis=0)
        bounds = self._bootstrap.means(np.stack(list(columns.values()), axis=1))
        metrics: dict[str, float | int] = {name: float(scores.mean()) for name, scores in columns.items()}
        intervals = {name: (float(low), float(high)) for name, (low, high) in zip(columns, bounds, strict=True)}
        one = next(iter(ranks.values()))  # chance is the same in both directions
        for place, k in enumerate(KS):
            metrics[f"chance_r{k}"] = float(one.chance[place])
            metrics[f"chance_group_r{k}"] = float(one.group_chance[:, place].mean())
        metrics["chance_mean_recall"] = float(one.chance.mean())
        metrics["num_pairs"] = len(one.hits)
        return metrics, intervals

    def _examples(
        self, split: "SplitFeatures", pairs: Pairs, image_queries: bool, ranks: Ranks
    ) -> dict[str, list[dict[str, Any]]]:
        """Return queries drawn blindly, and further ones drawn among those whose first place is wrong."""
        order, kept = draw_order(split.keys), self._config.examples
        failed = [row for row in order[kept:] if ranks.group_hits[row, 0] < 0.5]
        chosen = {"drawn": order[:kept], "failed": failed[:kept]}
        return {
            kind: [self._example(split, pairs, image_queries, row, float(ranks.group_rank[row])) for row in rows]
            for kind, rows in chosen.items()
        }

    def _example(
        self, split: "SplitFeatures", pairs: Pairs, image_queries: bool, row: int, rank: float
    ) -> dict[str, Any]:
        """Return one query with its first candidates; captions that are equal are shown once."""
        scores = _scores(pairs, image_queries, np.array([row]))[0]
        first_pair = {int(text): pair for pair, text in reversed(list(enumerate(pairs.text_rows)))}
        group = pairs.groups[pairs.text_rows[row]]
        ranked: list[dict[str, Any]] = []
        seen: set[int] = set()
        for candidate in np.argsort(-scores, kind="stable"):
            text = int(candidate) if image_queries else int(pairs.text_rows[candidate])
            if image_queries and int(pairs.groups[text]) in seen:
                continue
            seen.add(int(pairs.groups[text]))
            pair = first_pair[text] if image_queries else int(candidate)
            ranked.append(
                {
                    "key": split.keys[pair],
                    "caption": split.texts[text],
                    "score": round(float(scores[candidate]) * STEP, 6),
                    "right": bool(pairs.groups[text] == group),
                }
            )
            if len(ranked) == self._config.candidates:
                break
        own = split.texts[pairs.text_rows[row]]
        return {"key": split.keys[row], "caption": own, "rank": round(rank, 3), "ranked": ranked}


def _query_rows(split: "SplitFeatures", ranks: Mapping[str, Ranks]) -> list[dict[str, object]]:
    """Return the rows of ``per_query.parquet`` of one suite: expected hits when only the own partner is right."""
    names = tuple(f"r{k}" for k in KS)
    return [
        {"suite": split.suite, "direction": direction, "key": key, **dict(zip(names, hits, strict=True))}
        for direction, found in ranks.items()
        for key, hits in zip(split.keys, found.hits.tolist(), strict=True)
    ]
