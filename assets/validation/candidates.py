"""Which pictures may resemble each other: tables that put rows with equal traits (``traits.py``) together.

A small move, another size, another compression or another brightness leaves the distribution of a picture's colours
and its coarse layout nearly as they were, and these are its traits. A table sorts all rows by a few of them, another
few in each table, and rows with equal keys are candidates; what they have in common by chance,
``assets.validation.resemblance`` finds out. But for small sets, nothing is compared with everything: work and memory
grow as the number of rows.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from assets.validation.traits import NUM_MOMENTS, NUM_SIGNS, Traits

TABLES = 24
_BINS, _BIN_BITS = 8, 4  # an offset grid of 8 steps has 9 cells
_MOMENTS_PER_KEY = 4
_FEWEST_SIGNS = 4
_ROWS_OF_FEWEST_SIGNS = 1 << 14
_SAMPLE_ROWS = 1 << 16
_ROWS_AT_ONCE = 1 << 18
_FEW_ROWS = 512  # grids of eight cells would part the rows of a small set at random
MAX_SIGNS_APART = 14
"""Signs, of 42, by which candidates may differ; of 817 planted pairs 4 differ by more."""
MAX_MEANS_APART = 0.05
"""Share of the brightness by which the mean red-blue and green-purple of candidates may differ."""
NEIGHBOURS = 16
"""Rows of equal key that one row is compared with, beside the first of them, in each table."""


def num_signs_per_key(num_rows: int) -> int:
    """Return how many signs a key holds: one more whenever the rows double, so that chance meetings grow no faster."""
    return _FEWEST_SIGNS + max(0, (num_rows // _ROWS_OF_FEWEST_SIGNS).bit_length() - 1)


def keys(traits: Traits, table: int, num_signs: int) -> NDArray[np.uint64]:
    """Return each row's key in one table, uint64 [rows].

    Args:
        traits: Of all rows; the grid of each moment follows their distribution.
        table: Number of the table, which chooses traits and grids.
        num_signs: Signs in a key.
    """
    rng = np.random.default_rng([table])
    sample = traits.moments[:: max(1, len(traits.moments) // _SAMPLE_ROWS)]
    grids: list[tuple[int, NDArray[np.float32]]] = []
    for column in rng.choice(NUM_MOMENTS, _MOMENTS_PER_KEY, replace=False).tolist():
        # a grid of its own in every table: a pair on the edge of one cell is inside another
        shares = (np.arange(_BINS) + rng.random()) / _BINS
        ordered = np.sort(sample[:, column])
        grids.append((column, ordered[(shares * len(ordered)).astype(np.int64)]))
    bits = rng.choice(NUM_SIGNS, num_signs, replace=False).tolist()
    key = np.zeros(len(traits.signs), dtype=np.uint64)
    for start in range(0, len(key), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        here = key[rows]
        for column, edges in grids:
            values = np.ascontiguousarray(traits.moments[rows, column])
            cell = np.zeros(len(here), dtype=np.uint8)
            for edge in edges:  # eight comparisons are done sooner than a binary search
                cell += values >= edge
            here <<= np.uint64(_BIN_BITS)
            here |= cell
        for bit in bits:
            here <<= np.uint64(1)
            here |= (traits.signs[rows] >> np.uint64(bit)) & np.uint64(1)
    return key


def _neighbours(key: NDArray[np.uint64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield (first, second) of equal key, first < second: each row with its next ones and with the first of its key."""
    order, ordered = _sorted(key)
    leader = 0
    for start in range(0, len(order), _ROWS_AT_ONCE):
        places = np.arange(start, min(start + _ROWS_AT_ONCE, len(order)))
        begins = ordered[places] != ordered[np.maximum(places - 1, 0)]
        leaders = np.maximum.accumulate(np.where(begins, places, leader))
        leader = leaders[-1]
        far = places - leaders > NEIGHBOURS
        yield _rows(order, leaders[far], places[far])
        for step in range(1, NEIGHBOURS + 1):
            places = places[places < len(order) - step]
            places = places[ordered[places] == ordered[places + step]]
            if not len(places):
                break
            yield _rows(order, places, places + step)


def _sorted(key: NDArray[np.uint64]) -> tuple[NDArray[np.int32], NDArray[np.uint64]]:
    """Return rows in the order of key and row, and their keys.

    Keys lengthen by a bit when the rows double, so that key and row fit one number, and numbers are sorted three times
    as fast as places.
    """
    row_bits = np.uint64(len(key).bit_length())
    assert int(key.max(initial=0)).bit_length() + int(row_bits) <= 64
    packed = (key << row_bits) | np.arange(len(key), dtype=np.uint64)
    packed.sort()
    return (packed & ((np.uint64(1) << row_bits) - np.uint64(1))).astype(np.int32), packed >> row_bits


def _rows(
    order: NDArray[np.int32], first: NDArray[np.int64], second: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return order[first].astype(np.int64), order[second].astype(np.int64)


def candidate_pairs(traits: Traits, num_fixed: int, others: bool) -> NDArray[np.int64]:
    """Find the pairs worth a closer look.

    Args:
        traits: Of all rows that take part.
        num_fixed: So many of the first rows are not compared with each other.
        others: Whether the rest are compared with each other.

    Returns:
        Pairs (first, second), first < second, in ascending order of second and then first, int64 [pairs, 2].
    """
    num_rows = len(traits.signs)
    found = np.empty(0, dtype=np.int64)
    for meetings in _meetings(traits):
        fresh = [found]
        for first, second in meetings:
            wanted = second >= num_fixed
            if not others:
                wanted &= first < num_fixed
            wanted &= np.bitwise_count(traits.signs[first] ^ traits.signs[second]) <= MAX_SIGNS_APART
            first, second = first[wanted], second[wanted]
            alike = (np.abs(traits.moments[first, :2] - traits.moments[second, :2]) <= MAX_MEANS_APART).all(axis=1)
            fresh.append(second[alike] * num_rows + first[alike])
        found = np.unique(np.concatenate(fresh))
    return np.stack([found % max(num_rows, 1), found // max(num_rows, 1)], axis=1)


def _meetings(traits: Traits) -> Iterator[Iterable[tuple[NDArray[np.int64], NDArray[np.int64]]]]:
    """Yield, table by table, the rows (first, second) that meet there; all of them at once when they are few."""
    num_rows = len(traits.signs)
    if num_rows <= _FEW_ROWS:
        second, first = np.tril_indices(num_rows, -1)
        yield [(first, second)]
        return
    for table in range(TABLES):
        yield _neighbours(keys(traits, table, num_signs_per_key(num_rows)))
