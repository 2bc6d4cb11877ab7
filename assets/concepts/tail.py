"""How unequal concepts are: the long tail of their counts, and whether data sets agree about it.

Counts are those of arXiv 2404.04125. The published correlations between data sets compare lists by position, some of
which are of different lengths; here concepts are aligned by name first.
"""

from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from assets.concepts.concept_list import canonical

Counts = NDArray[np.int64]


def tail_facts(counts: Counts) -> dict[str, float]:
    """Describe the long tail of counts.

    Args:
        counts: Pairs of each concept, [K], none negative, K at least 1.

    Returns:
        ``zero_share``: concepts without any pair; ``top1_share`` and ``top10_share``: hits of the most frequent 1 % and
        10 % of concepts, rounded up; ``gini``: 0 when all are equal, towards 1 when one has all;
        ``effective_number``: exp of the entropy of hits, the number of equal concepts that were as diverse. Without any
        hit, all but the first are 0.
    """
    return {
        "zero_share": float((counts == 0).mean()),
        "top1_share": top_share(counts, 0.01),
        "top10_share": top_share(counts, 0.1),
        "gini": gini(counts),
        "effective_number": effective_number(counts),
    }


def top_share(counts: Counts, share: float) -> float:
    """Return the share of all hits that the most frequent concepts have.

    Args:
        counts: [K].
        share: Of the concepts, rounded up to whole ones.
    """
    total = counts.sum()
    return float(np.sort(counts)[::-1][: ceil(share * len(counts))].sum() / total) if total else 0.0


def gini(counts: Counts) -> float:
    """Return the Gini coefficient of counts [K]: mean difference of two concepts over twice the mean count."""
    size, total = len(counts), counts.sum()
    if not total:
        return 0.0
    places = 2 * np.arange(1, size + 1) - size - 1
    return float((places * np.sort(counts)).sum() / (size * total))


def effective_number(counts: Counts) -> float:
    """Return exp of the entropy of counts [K]; K when all are equal, 0 where there are no hits."""
    present = counts[counts > 0]
    if not len(present):
        return 0.0
    shares = present / present.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def sorted_normalised(counts: Counts) -> NDArray[np.float64]:
    """Return the curve of the long tail: counts [K] without zeros over the largest, falling, float64 [at most K]."""
    present = np.sort(counts[counts > 0])[::-1].astype(np.float64)
    return present / present[0] if len(present) else present


def spearman(counts: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return rank correlations of counts between data sets.

    Args:
        counts: Of the same concepts in the same order, [S, K]; equal counts share the mean of their ranks.

    Returns:
        float64 [S, S]; NaN where a data set has the same count for every concept.
    """
    ranks = np.stack([rankdata(row) for row in counts])
    ranks -= ranks.mean(axis=1, keepdims=True)
    norms = np.sqrt((ranks**2).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return ranks @ ranks.T / np.outer(norms, norms)


def align(tables: Sequence[Mapping[str, int]]) -> tuple[list[str], Counts]:
    """Line up counts of several data sets by the names of their concepts.

    Args:
        tables: Name -> count, one per data set.

    Returns:
        Canonical names that all have, in the order of the first, and int64 [S, K'] counts of them.
    """
    named = [{canonical(name): count for name, count in table.items()} for table in tables]
    common = [name for name in (named[0] if named else ()) if all(name in table for table in named)]
    counts = np.array([[table[name] for name in common] for table in named], dtype=np.int64)
    return common, counts.reshape(len(named), len(common))
