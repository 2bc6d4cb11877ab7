"""How a policy moves the concepts of captions: which become rarer than the rest, and which are gone."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assets.reduction.steps_concepts import find_concepts
from assets.sources.base import frequency_thirds

_MOST_CAPTIONS, _MIN_COUNT, _SHOWN, _MOVED = 200_000, 5, 10, 2.0


@dataclass(frozen=True, slots=True)
class Concepts:
    """Captions per concept.

    Attributes:
        names: Of the concepts that the pool has, the most frequent first, E of them.
        before: Captions of the pool, int64 [E].
        after: Of these, kept, int64 [E].
        captions: Captions looked at.
    """

    names: tuple[str, ...]
    before: NDArray[np.int64]
    after: NDArray[np.int64]
    captions: int


def count_concepts(captions: pa.StringArray, kept: NDArray[np.bool_], names: list[str]) -> Concepts:
    """Count concepts by the original captions, evenly spread ones where there are very many.

    Args:
        captions: Of the pool, [n].
        kept: bool [n].
        names: Of the data set's classes; words of captions are counted where it has none.
    """
    rows = np.unique(np.linspace(0, len(captions) - 1, min(len(captions), _MOST_CAPTIONS)).astype(np.int64))
    found = find_concepts(captions.take(pa.array(rows)), names, "auto", _MIN_COUNT)
    before, after = found.counts(), found.counts(kept[rows])
    order = np.argsort(-before, kind="stable")
    order = order[before[order] > 0]
    return Concepts(tuple(found.names[place] for place in order), before[order], after[order], len(rows))


def concept_facts(concepts: Concepts) -> dict[str, Any]:
    """Return what summary.json says: concepts, those that are gone, those whose share doubled or halved, and thirds.

    Args:
        concepts: From :func:`count_concepts`.
    """
    shares = [counts / max(int(counts.sum()), 1) for counts in (concepts.before, concepts.after)]
    ratio = shares[1] / np.maximum(shares[0], 1e-12)
    thirds = np.array(frequency_thirds(concepts.before.tolist()))
    return {
        "captions": concepts.captions,
        "entries": len(concepts.names),
        "gone": int((concepts.after == 0).sum()),
        "share_more_than_doubled": int((ratio > _MOVED).sum()),
        "share_more_than_halved": int((ratio < 1 / _MOVED).sum()),
        "mentions": {
            third: {
                side: float(share[thirds == third].sum()) for side, share in zip(("pool", "kept"), shares, strict=True)
            }
            for third in ("head", "mid", "tail")
        },
    }


def extremes(concepts: Concepts) -> dict[str, list[int]]:
    """Return places of concepts worth showing: the most frequent ones, and those of which the least is kept."""
    kept_share = concepts.after / np.maximum(concepts.before, 1)
    least = np.lexsort((-concepts.before, kept_share))[:_SHOWN].tolist()
    return {"most frequent": list(range(min(_SHOWN, len(concepts.names)))), "least kept": least}
