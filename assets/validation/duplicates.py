"""Rules about samples seen together: repeated captions, repeated pictures, training pictures that the tests use.

They run on 64-bit hashes held as numbers, 8 bytes per sample, so that ten million samples fit a small machine. Only
samples that passed the rules of ``assets.validation.sample_rules`` take part, so that a broken one never displaces a
good one. Within training the first in index order stays; evaluation splits are never thinned.
"""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported, out of a type checker's sight

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from assets.errors import DataError, message
from assets.validation.config import DuplicateRules

HASH_BITS = 64
REASONS = ("repeated_caption", "in_evaluation", "near_evaluation", "duplicate_image", "near_duplicate")


@dataclass(frozen=True, slots=True)
class Matches:
    """What one rule found.

    Attributes:
        rows: Rows to reject, ascending, int64.
        partners: For each, the row that makes it superfluous, int64.
    """

    rows: np.ndarray
    partners: np.ndarray


def hash_numbers(column: pa.Array, name: str) -> np.ndarray:
    """Turn hashes of 16 hex digits into numbers; an empty one becomes 0.

    Args:
        column: Strings.
        name: The column's name, for the error.

    Returns:
        Numbers, uint64 [rows].

    Raises:
        DataError: A value is not a hash.
    """
    filled = pc.if_else(pc.equal(column, ""), "0" * 16, column)
    if not pc.all(pc.match_substring_regex(filled, "^[0-9a-f]{16}$")).as_py():
        raise DataError(message(f"index.parquet: column {name} holds values that are no hash", fix="run ingest again"))
    return np.frombuffer(bytes.fromhex("".join(filled.to_pylist())), dtype=">u8").astype(np.uint64)


def informative(hashes: np.ndarray, min_bits: int) -> np.ndarray:
    """Say which perceptual hashes have enough set and unset bits to describe a picture, bool [rows]."""
    bits = np.bitwise_count(hashes)
    return (bits >= min_bits) & (bits <= HASH_BITS - min_bits)


def repeated(hashes: np.ndarray, candidates: np.ndarray, limit: int) -> Matches:
    """Find the rows whose value occurs too often.

    Args:
        hashes: Caption hashes, uint64 [rows].
        candidates: Rows to look at, ascending.
        limit: Occurrences allowed; 0 allows any number.

    Returns:
        All occurrences of such values; the partner is the first of them.
    """
    _, first, inverse, counts = np.unique(
        hashes[candidates], return_index=True, return_inverse=True, return_counts=True
    )
    many = counts[inverse] > limit if limit else np.zeros(len(candidates), dtype=bool)
    return Matches(candidates[many], candidates[first[inverse[many]]])


def same(hashes: np.ndarray, candidates: np.ndarray) -> Matches:
    """Find candidates whose value stood before, with the first of its kind as partner."""
    _, first, inverse = np.unique(hashes[candidates], return_index=True, return_inverse=True)
    origin = first[inverse]
    later = origin != np.arange(len(candidates))
    return Matches(candidates[later], candidates[origin[later]])


def shared(hashes: np.ndarray, candidates: np.ndarray, reference: np.ndarray) -> Matches:
    """Find candidates whose value occurs among the reference rows too."""
    values, first = np.unique(hashes[reference], return_index=True)
    if not len(values):
        return Matches(candidates[:0], candidates[:0])
    place = np.minimum(np.searchsorted(values, hashes[candidates]), len(values) - 1)
    found = values[place] == hashes[candidates]
    return Matches(candidates[found], reference[first[place[found]]])


def close_pairs(hashes: np.ndarray, max_distance: int) -> np.ndarray:
    """Find all pairs of hashes that differ in few bits.

    Two hashes that differ in d bits agree in at least one of d + 1 bands, so each band is sorted and only neighbours
    with an equal band are compared.

    Args:
        hashes: uint64 [rows].
        max_distance: Bits that may differ.

    Returns:
        Pairs (earlier, later), ordered by later and then earlier, int64 [pairs, 2].
    """
    edges = np.linspace(0, HASH_BITS, max_distance + 2).astype(int)
    found: list[np.ndarray] = []
    for low, high in pairwise(edges.tolist()):
        mask = np.uint64((1 << (high - low)) - 1)
        bands = (hashes >> np.uint64(low)) & mask
        order = np.argsort(bands, kind="stable")
        sorted_bands, sorted_hashes = bands[order], hashes[order]
        active = np.arange(len(order))
        step = 0
        while len(active):
            step += 1
            active = active[active < len(order) - step]
            active = active[sorted_bands[active] == sorted_bands[active + step]]
            close = active[np.bitwise_count(sorted_hashes[active] ^ sorted_hashes[active + step]) <= max_distance]
            found.append(np.stack([order[close], order[close + step]], axis=1))
    pairs = np.unique(np.sort(np.concatenate(found), axis=1), axis=0) if found else np.empty((0, 2), dtype=np.int64)
    return pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]


def near(hashes: np.ndarray, candidates: np.ndarray, max_distance: int) -> Matches:
    """Find candidates close to an earlier one that stays (a rejected one rejects nobody, so chains do not spread).

    Args:
        hashes: Perceptual hashes, uint64 [rows].
        candidates: Rows to look at, ascending.
        max_distance: Bits that may differ.
    """
    partner: dict[int, int] = {}
    for earlier, later in close_pairs(hashes[candidates], max_distance).tolist():
        if earlier not in partner:
            partner.setdefault(later, earlier)
    rows = np.array(sorted(partner), dtype=np.int64)
    return Matches(candidates[rows], candidates[np.array([partner[row] for row in rows.tolist()], dtype=np.int64)])


@dataclass(frozen=True, slots=True)
class Hashes:
    """Hashes of all rows of the index.

    Attributes:
        image: Of the files' bytes, uint64 [rows].
        perceptual: Difference hashes, uint64 [rows].
        caption: Of the captions, uint64 [rows].
    """

    image: np.ndarray
    perceptual: np.ndarray
    caption: np.ndarray


def find_duplicates(
    hashes: Hashes, train: np.ndarray, evaluation: np.ndarray, rules: DuplicateRules, max_repeats: int
) -> dict[str, Matches]:
    """Apply the rules one after another; a row that one rejects takes no part in the next.

    Args:
        hashes: Of all rows.
        train: Accepted training rows, ascending.
        evaluation: Accepted rows of the evaluation splits, ascending.
        rules: What to drop.
        max_repeats: Training images that may share one caption; 0 sets no limit.

    Returns:
        Reason -> matches, for the reasons that are switched on.
    """
    found: dict[str, Matches] = {}
    left = train

    def reject(reason: str, matches: Matches) -> None:
        nonlocal left
        found[reason] = matches
        left = np.setdiff1d(left, matches.rows, assume_unique=True)

    def telling(rows: np.ndarray) -> np.ndarray:
        return rows[informative(hashes.perceptual[rows], rules.min_hash_bits)]

    if max_repeats:
        reject("repeated_caption", repeated(hashes.caption, left, max_repeats))
    if rules.evaluation:
        reject("in_evaluation", shared(hashes.image, left, evaluation))
        reject("near_evaluation", shared(hashes.perceptual, telling(left), telling(evaluation)))
    if rules.exact:
        reject("duplicate_image", same(hashes.image, left))
    if rules.near:
        reject("near_duplicate", near(hashes.perceptual, telling(left), rules.max_distance))
    return found
