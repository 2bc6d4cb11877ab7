"""Rules about samples seen together: repeated captions, repeated pictures, training pictures that the tests use.

They run on 64-bit hashes held as numbers and on the traits of ``assets.validation.candidates``, 68 bytes per sample, so
that ten million samples fit a small machine. Only samples that passed the rules of ``assets.validation.sample_rules``
take part, so that a broken one never displaces a good one. Within training the first in index order stays; evaluation
splits are never thinned.
"""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported, out of a type checker's sight

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from assets.errors import DataError, message
from assets.validation.candidates import candidate_pairs
from assets.validation.config import DuplicateRules
from assets.validation.resemblance import distances
from assets.validation.traits import Traits

REASONS = ("repeated_caption", "in_evaluation", "near_evaluation", "duplicate_image", "near_duplicate")
_PAIRS_AT_ONCE = 1 << 16
_HEX_DIGITS = 16
_VALUES = np.full(256, 255, dtype=np.uint8)
_VALUES[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)


class Pictures(Protocol):
    """How the pictures of all rows look (``assets.validation.measures.Measures``)."""

    def traits(self, rows: NDArray[np.int64]) -> Traits:
        """Return the traits of rows without repeats, in the order given."""
        ...

    def signatures(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the signatures of ascending rows, uint8 [rows, 972]."""
        ...


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
    filled = pc.if_else(pc.equal(column, ""), "0" * _HEX_DIGITS, column)
    if not len(filled):
        return np.empty(0, dtype=np.uint64)
    if pc.all(pc.equal(pc.binary_length(filled), _HEX_DIGITS)).as_py():
        _, offsets, content = filled.buffers()
        first = int(np.frombuffer(offsets, np.int32)[filled.offset])
        digits = _VALUES[np.frombuffer(content, np.uint8, _HEX_DIGITS * len(filled), first)]
        if (digits < 16).all():
            return ((digits[0::2] << 4) | digits[1::2]).view(">u8").astype(np.uint64)
    raise DataError(message(f"index.parquet: column {name} holds values that are no hash", fix="run ingest again"))


def frequent(values: NDArray[np.uint64], limit: int) -> NDArray[np.uint64]:
    """Return the values that occur more than ``limit`` times (at least 1), ascending."""
    ordered = np.sort(values)
    return np.unique(ordered[limit:][ordered[limit:] == ordered[:-limit]])


def among(values: NDArray[np.uint64], wanted: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Say which values are among ascending others, without sorting the many for the few, bool [values]."""
    if not len(wanted):
        return np.zeros(len(values), dtype=bool)
    return wanted[np.minimum(np.searchsorted(wanted, values), len(wanted) - 1)] == values


def repeated(hashes: np.ndarray, candidates: np.ndarray, limit: int) -> Matches:
    """Find the rows whose value occurs too often.

    Args:
        hashes: Caption hashes, uint64 [rows].
        candidates: Rows to look at, ascending.
        limit: Occurrences allowed; 0 allows any number.

    Returns:
        All occurrences of such values; the partner is the first of them.
    """
    if not limit:
        return Matches(candidates[:0], candidates[:0])
    rows, origins = _with_first(hashes, candidates, limit)
    return Matches(rows, origins)


def same(hashes: np.ndarray, candidates: np.ndarray) -> Matches:
    """Find candidates whose value stood before, with the first of its kind as partner."""
    rows, origins = _with_first(hashes, candidates, 1)
    later = origins != rows
    return Matches(rows[later], origins[later])


def _with_first(hashes: np.ndarray, candidates: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the candidates whose value occurs more than ``limit`` times, and for each the first with this value."""
    values = hashes[candidates]
    rows = candidates[among(values, frequent(values, limit))]
    _, first, inverse = np.unique(hashes[rows], return_index=True, return_inverse=True)
    return rows, rows[first[inverse]]


def shared(hashes: np.ndarray, candidates: np.ndarray, reference: np.ndarray) -> Matches:
    """Find candidates whose value occurs among the reference rows too."""
    values, first = np.unique(hashes[reference], return_index=True)
    if not len(values):
        return Matches(candidates[:0], candidates[:0])
    place = np.minimum(np.searchsorted(values, hashes[candidates]), len(values) - 1)
    found = values[place] == hashes[candidates]
    return Matches(candidates[found], reference[first[place[found]]])


def compares_pictures(rules: DuplicateRules) -> bool:
    """Say whether a rule asks how pictures look, beyond their bytes."""
    return rules.near or rules.evaluation


def near_pairs(pictures: Pictures, rows: np.ndarray, num_fixed: int, rules: DuplicateRules) -> np.ndarray:
    """Find the pairs of rows that show nearly the same.

    Args:
        pictures: Of all rows of the index. The signatures that ``_PAIRS_AT_ONCE`` pairs need are held at a time.
        rows: Rows to look at: some of the evaluation, then those of training, each ascending.
        num_fixed: How many of them are of the evaluation, and not compared with each other.
        rules: With the distance, and whether training rows are compared with each other.

    Returns:
        Pairs (first, second) of rows of the index, in the order of ``rows`` by second and then first, int64 [pairs, 2].
    """
    pairs = candidate_pairs(pictures.traits(rows), num_fixed, rules.near)
    kept: list[np.ndarray] = [np.empty((0, 2), dtype=np.int64)]
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        part = rows[pairs[start : start + _PAIRS_AT_ONCE]]
        needed, place = np.unique(part, return_inverse=True)
        place = place.reshape(part.shape)
        signatures = pictures.signatures(needed)
        close = distances(signatures, place[:, 0], place[:, 1]) <= rules.max_distance
        kept.append(part[close])
    return np.concatenate(kept)


def near(pairs: np.ndarray, left: np.ndarray) -> Matches:
    """Find training rows near an earlier one that stays (a rejected one rejects nobody, so chains do not spread).

    Args:
        pairs: What :func:`near_pairs` found.
        left: Training rows that no other rule rejects, ascending.
    """
    both = np.isin(pairs, left).all(axis=1)
    partner: dict[int, int] = {}
    for earlier, later in pairs[both].tolist():
        if earlier not in partner:
            partner.setdefault(later, earlier)
    return _matches(partner)


def near_fixed(pairs: np.ndarray, left: np.ndarray, evaluation: np.ndarray) -> Matches:
    """Find training rows near one of the evaluation.

    Args:
        pairs: What :func:`near_pairs` found.
        left: Training rows that no other rule rejects, ascending.
        evaluation: Rows of the evaluation splits, ascending.
    """
    across = np.isin(pairs[:, 0], evaluation) & np.isin(pairs[:, 1], left)
    return _matches({later: earlier for earlier, later in pairs[across][::-1].tolist()})


def _matches(partner: dict[int, int]) -> Matches:
    rows = sorted(partner)
    return Matches(np.array(rows, dtype=np.int64), np.array([partner[row] for row in rows], dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Hashes:
    """What is known of all rows of the index.

    Attributes:
        image: Hashes of the files' bytes, uint64 [rows].
        caption: Hashes of the captions, uint64 [rows].
        pictures: How they look; asked only when a rule compares pictures.
    """

    image: np.ndarray
    caption: np.ndarray
    pictures: Pictures


@dataclass(frozen=True, slots=True)
class Rows:
    """Accepted rows of the index.

    Attributes:
        train: Of training, ascending, int64.
        evaluation: Of the evaluation splits, ascending, int64.
    """

    train: np.ndarray
    evaluation: np.ndarray


def find_duplicates(hashes: Hashes, rows: Rows, rules: DuplicateRules, max_repeats: int) -> dict[str, Matches]:
    """Apply the rules one after another; a row that one rejects takes no part in the next.

    Args:
        hashes: Of all rows.
        rows: Those to look at.
        rules: What to drop.
        max_repeats: Training images that may share one caption; 0 sets no limit.

    Returns:
        Reason -> matches, for the reasons that are switched on.
    """
    found: dict[str, Matches] = {}
    left = rows.train

    def reject(reason: str, matches: Matches) -> None:
        nonlocal left
        found[reason] = matches
        left = np.setdiff1d(left, matches.rows, assume_unique=True)

    if max_repeats:
        reject("repeated_caption", repeated(hashes.caption, left, max_repeats))
    if rules.evaluation:
        reject("in_evaluation", shared(hashes.image, left, rows.evaluation))
    pairs = np.empty((0, 2), dtype=np.int64)
    if compares_pictures(rules):
        fixed = rows.evaluation if rules.evaluation else rows.evaluation[:0]
        pairs = near_pairs(hashes.pictures, np.concatenate([fixed, left]), len(fixed), rules)
    if rules.evaluation:
        reject("near_evaluation", near_fixed(pairs, left, rows.evaluation))
    if rules.exact:
        reject("duplicate_image", same(hashes.image, left))
    if rules.near:
        reject("near_duplicate", near(pairs, left))
    return found
