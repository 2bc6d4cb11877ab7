"""Balance concepts: pairs that only frequent concepts ask for are thinned out, those of rare ones all stay.

MetaCLIP (arXiv 2309.16671). A match says that the caption of pair p mentions entry e. With one draw u per match:

    a match survives if u < t / max(count_e, t); a pair survives if any of its matches does

so an entry contributes about t pairs, however often it occurs, and an entry with at most t matches keeps all of them.
Pairs without a match are dropped. Draws are hashes of (seed, entry, key), independent of the order of anything. Because
a match survives exactly from t = u * count_e on, each pair has a least t, and a budget is spent exactly by taking the
pairs with the smallest.
"""

import numpy as np
from numpy.typing import NDArray

from assets.errors import ConfigError, message
from assets.reduction.hash_order import uniforms as mixed_uniforms
from assets.reduction.selection import best

Ids = NDArray[np.int32] | NDArray[np.int64]


def uniforms(
    key_hashes: NDArray[np.uint64], entry_hashes: NDArray[np.uint64], entries: Ids, pairs: Ids
) -> NDArray[np.float64]:
    """Return the draw of each match.

    Args:
        key_hashes: Of all pairs, uint64 [n].
        entry_hashes: Of all entries, by their names, uint64 [E].
        entries: The entry of each match, [m].
        pairs: The pair of each match, a row of the pool, [m].

    Returns:
        float64 [m], in [0, 1).
    """
    return mixed_uniforms(key_hashes[pairs], entry_hashes[entries])


def keep(
    entries: Ids,
    pairs: Ids,
    draws: NDArray[np.float64],
    threshold: int,
    size: int,
    counts: Ids | None = None,
    keep_unmatched: bool = False,
) -> NDArray[np.bool_]:
    """Keep the pairs of which a match survives.

    Args:
        entries: The entry of each match, [m].
        pairs: The pair of each match, a row of the pool, [m].
        draws: In [0, 1), float64 [m].
        threshold: t, matches that an entry may have before they are thinned out.
        size: Rows of the pool, n.
        counts: Matches per entry of a larger pool, [E]; None counts these.
        keep_unmatched: Keep pairs without a match, which the published rule drops.

    Returns:
        bool [n].

    Raises:
        ConfigError: The threshold is not positive.
    """
    if threshold < 1:
        raise ConfigError(message("concepts cannot be balanced to such a threshold", threshold, "1 or more"))
    of_match = _counts(entries, counts)
    survives = draws < threshold / np.maximum(of_match, threshold)
    kept = np.zeros(size, dtype=np.bool_)
    if keep_unmatched:
        kept = ~matched(pairs, size)
    kept[pairs[survives]] = True
    return kept


def matched(pairs: Ids, size: int) -> NDArray[np.bool_]:
    """Tell which rows have a match.

    Args:
        pairs: The pair of each match, [m].
        size: Rows of the pool, n.

    Returns:
        bool [n].
    """
    found = np.zeros(size, dtype=np.bool_)
    found[pairs] = True
    return found


def keep_budget(
    entries: Ids,
    pairs: Ids,
    draws: NDArray[np.float64],
    ranks: NDArray[np.int64],
    budget: int,
    keep_unmatched: bool = False,
) -> NDArray[np.bool_]:
    """Keep exactly a budget: as :func:`keep` with the threshold that leaves so many.

    Args:
        entries: The entry of each match, [m].
        pairs: The pair of each match, a row of the pool, [m].
        draws: In [0, 1), float64 [m].
        ranks: Places of the pool's rows in the hash order, which settle ties, int64 [n].
        budget: How many.
        keep_unmatched: Count pairs without a match as the rarest of all, instead of dropping them.

    Returns:
        bool [n], of which exactly ``budget`` are true.

    Raises:
        ConfigError: Fewer pairs match any entry.
    """
    has = matched(pairs, len(ranks))
    least = np.where(has, np.inf, -1.0)
    np.minimum.at(least, pairs, draws * _counts(entries, None))
    if keep_unmatched:
        return best(-least, ranks, budget)
    matching = int(has.sum())
    if budget > matching:
        what = f"only {matching} of {len(ranks)} pairs mention a concept, and the others are never kept"
        raise ConfigError(message(what, budget, f"at most {matching}", "lower keep, or use more concepts"))
    return best(np.where(has, -least, -np.inf), ranks, budget)


def _counts(entries: Ids, counts: Ids | None) -> NDArray[np.int64]:
    """Return for each match how many its entry has."""
    known = np.bincount(entries) if counts is None else counts
    return known[entries].astype(np.int64)
