"""The evaluator ``concept_scores``: retrieval concept by concept, where concepts are classes that captions name.

Its table is what the report of concepts sets against their frequency in training (``report.py``); there is no single
score, since the mean over all captions is what the evaluator ``retrieval`` gives.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from assets.section import Section
from evaluation.base import Result
from evaluation.concepts.per_concept import KS, Rows, caption_hits, concept_means, image_hits
from evaluation.intervals import Bootstrap

if TYPE_CHECKING:
    from assets.concepts.csr import Csr
    from evaluation.features import Features, SplitFeatures
    from evaluation.samples import ClassFacts


class ConceptScoresConfig(Section):
    """Settings of the evaluator ``concept_scores``."""

    least: int = Field(default=10, ge=1)
    """Pictures of a split that must show a concept for it to be scored there; ten in the publication."""


class ConceptScores:
    """The evaluator ``concept_scores``: R@1, R@5 and R@10 of every concept, both ways."""

    Config: ClassVar[type[Section]] = ConceptScoresConfig
    needs: ClassVar[Mapping[str, frozenset[str]]] = {"retrieval": frozenset({"images", "captions"})}

    def __init__(self, config: ConceptScoresConfig, bootstrap: Bootstrap) -> None:
        self._config = config
        self._bootstrap = bootstrap

    def run(self, features: "Features") -> Result:
        """Score every concept on every split of the role ``retrieval``.

        Args:
            features: Image and caption features of the splits, and the classes.

        Returns:
            Per suite how many concepts were scored, and the table ``per_concept``.
        """
        result = Result(metrics={}, intervals={}, tables={"per_concept": []})
        splits = features.with_role("retrieval")
        if not features.classes or not splits:
            lack = "the data set has no classes" if splits else "no split has the role retrieval"
            result.notes.append(f"concept_scores: {lack}; nothing is scored")
            return result
        names, search = _names(features.classes)
        for split in splits:
            found = search.find(split.texts)
            rows = list(self._rows(split, names, found))
            result.tables["per_concept"] += rows
            scored = len({row["concept"] for row in rows})
            result.metrics[split.suite] = {"num_concepts": scored, "num_without": _without(split, found)}
            if not scored:
                text = f"no class is named by {self._config.least} captions or more; lower concept_scores.least"
                result.notes.append(f"concept_scores, {split.suite}: {text}")
        return result

    def _rows(self, split: "SplitFeatures", names: Sequence[str], found: "Csr") -> Iterator[dict[str, Any]]:
        """Yield the rows of one suite.

        Args:
            split: The split.
            names: The concepts.
            found: Concepts of each distinct caption.
        """
        assert split.text_features is not None and split.text_rows is not None
        per_pair = found.take(split.text_rows)
        members = np.repeat(np.arange(len(split.keys)), np.diff(per_pair.pointer))
        texts, owners = split.text_features[split.text_rows], np.arange(len(split.keys))
        hits = {
            "text_to_image": caption_hits(texts, split.image_features, owners),
            "image_to_text": image_hits(split.image_features, texts, owners),
        }
        for direction, scores in hits.items():
            means, counts = concept_means(scores, members, per_pair.concepts.astype(np.int64), len(names))
            for concept in np.flatnonzero(counts >= self._config.least).tolist():
                for place, k in enumerate(KS):
                    yield {
                        "suite": split.suite,
                        "direction": direction,
                        "k": k,
                        "concept": names[concept],
                        "num": int(counts[concept]),
                        "recall": float(means[concept, place]),
                    }


def _names(classes: Sequence["ClassFacts"]) -> tuple[list[str], Any]:
    """Return the distinct names of classes, and a search for them and their plurals."""
    # imported late: evaluators are imported wherever params.yaml is read
    from assets.concepts.concept_list import Concept
    from assets.concepts.phrase import PhraseSearch

    first = {facts.name: facts for facts in reversed(classes)}
    ordered = [first[name] for name in dict.fromkeys(facts.name for facts in classes)]
    concepts = [
        Concept(facts.name, (facts.plural,) if facts.plural != facts.name else (), facts.group) for facts in ordered
    ]
    return [facts.name for facts in ordered], PhraseSearch(concepts)


def _without(split: "SplitFeatures", found: "Csr") -> int:
    """Count the pairs whose caption names no concept."""
    assert split.text_rows is not None
    sizes: Rows = np.diff(found.pointer)
    return int((sizes[split.text_rows] == 0).sum())
