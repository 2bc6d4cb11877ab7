"""Caption noise: pairs whose captions are exchanged, so that what a noisy corpus costs can be measured.

Which pairs are displaced, and which caption each gets, depends on keys and the seed alone. A share of the pairs, exact
to the pair, is put into a random circle, and each takes the caption of the next one: nobody keeps its own, and the
captions as a whole stay the same. Another share with the same seed displaces a part or a superset of the same pairs.

The published study (arXiv 2309.17002) exchanges captions two at a time, as many times as the share says, with pairs
that may be drawn again: about 1 - exp(-2 share) of them end up displaced. ``reference_swaps`` does that.
"""

import random

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assets.reduction.config import ExchangedCaptions
from assets.reduction.hash_order import key_hashes, ranks

Rows = NDArray[np.int64]


def caption_sources(rule: ExchangedCaptions, keys: pa.StringArray, seed: int) -> Rows:
    """Say whose caption each pair gets.

    Args:
        rule: How captions are exchanged.
        keys: Of the pairs, [n].
        seed: Of the policy.

    Returns:
        Row of the pair whose caption it is, int64 [n].
    """
    order = _order("noise", keys, seed)
    if rule.mode == "cyclic":
        return circle(order, _order("circle", keys, seed), round(rule.share * len(keys)))
    # by place in the hash order, so that neither shards nor rows matter
    moved = swaps(len(keys), rule.share, seed)
    sources = np.empty(len(keys), dtype=np.int64)
    sources[order] = order[moved]
    return sources


def _order(purpose: str, keys: pa.StringArray, seed: int) -> Rows:
    """Return the rows in an order of their own for each purpose."""
    salted = pa.array([f"{purpose}:{key}" for key in keys.to_pylist()], pa.string())
    return np.argsort(ranks(salted, key_hashes(salted, seed)))


def circle(order: Rows, around: Rows, size: int) -> Rows:
    """Put some rows into a circle, in which each takes from the next.

    Args:
        order: All rows, those to be displaced first, int64 [n].
        around: All rows in the order of the circle, int64 [n].
        size: How many are displaced; one alone has nobody to take from, and stays.

    Returns:
        int64 [n].
    """
    sources = np.arange(len(order))
    chosen = np.zeros(len(order), dtype=np.bool_)
    chosen[order[:size]] = True
    members = around[chosen[around]]
    sources[members] = np.roll(members, -1)
    return sources


def swaps(number: int, share: float, seed: int) -> Rows:
    """Exchange two at a time, drawn anew each time, as the published script does.

    Args:
        number: Of the pairs, n.
        share: Exchanges per pair, rounded down to whole exchanges.
        seed: Of the draws.

    Returns:
        Place that each place takes from, int64 [n].
    """
    drawn = random.Random(f"swaps/{seed}")
    pairs = [drawn.sample(range(number), 2) for _ in range(int(share * number))] if number > 1 else []
    return apply_swaps(number, np.array(pairs, dtype=np.int64).reshape(-1, 2))


def apply_swaps(number: int, pairs: Rows) -> Rows:
    """Carry out exchanges one after the other.

    Args:
        number: n.
        pairs: The two places of each exchange, [K, 2].

    Returns:
        Place that each place takes from in the end, int64 [n].
    """
    sources = list(range(number))
    for one, other in pairs.tolist():
        sources[one], sources[other] = sources[other], sources[one]
    return np.array(sources, dtype=np.int64)
