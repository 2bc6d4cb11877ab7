"""An order of pairs that only their keys and a seed decide: not shards, file names, workers or rows.

    h(key) = first 8 bytes, as a big-endian number, of BLAKE2b(digest_size=8) over the UTF-8 text "<seed>:<key>"

Pairs are ordered by (h, key). Rules see this order as ranks, one whole number per row, so that equal hashes are settled
once. Any part of the pool keeps the order that the whole of it has.
"""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assets.errors import DataError, message

Keys = Sequence[str] | NDArray[np.str_] | pa.StringArray | pa.ChunkedArray
_AT_ONCE = 1 << 16
"""Keys that are Python strings at a time."""
_SHOWN = 3


def _batches(keys: Keys) -> Iterator[list[str]]:
    for begin in range(0, len(keys), _AT_ONCE):
        # by way of NumPy, which all kinds of keys know and which is quick
        yield np.asarray(keys[begin : begin + _AT_ONCE], dtype=object).tolist()


def key_hashes(keys: Keys, seed: int) -> NDArray[np.uint64]:
    """Hash keys together with a seed.

    Args:
        keys: [n].
        seed: Decides all of them.

    Returns:
        uint64 [n].
    """
    salt = f"{seed}:"
    hashes = np.empty(len(keys), dtype=np.uint64)
    done = 0
    for batch in _batches(keys):
        digests = b"".join(hashlib.blake2b((salt + key).encode(), digest_size=8).digest() for key in batch)
        hashes[done : done + len(batch)] = np.frombuffer(digests, dtype=">u8")
        done += len(batch)
    return hashes


def ranks(keys: Keys, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Number rows by (hash, key).

    Args:
        keys: [n].
        hashes: From :func:`key_hashes`, uint64 [n].

    Returns:
        The place of each row in that order, 0 to n - 1, int64 [n].

    Raises:
        DataError: A key stands in two rows.
    """
    order = np.argsort(hashes, kind="stable")
    same = hashes[order[1:]] == hashes[order[:-1]]
    repeated: set[str] = set()
    for begin, end in _runs(same):
        # a tie is a key that stands there twice, or two keys with one hash, which takes billions of rows to meet
        run = sorted((str(keys[int(row)]), int(row)) for row in order[begin:end])
        repeated |= {key for (key, _), (after, _) in pairwise(run) if key == after}
        order[begin:end] = [row for _, row in run]
    if repeated:
        shown = ", ".join(sorted(repeated)[:_SHOWN]) + (", ..." if len(repeated) > _SHOWN else "")
        what = f"{len(repeated)} of the pool's keys stand in more than one row ({shown})"
        raise DataError(message(what, fix="give every pair a key of its own and ingest again"))
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order))
    return places


def _runs(same: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yield begin and end of the stretches of equal neighbours, given which places equal the one before."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)))
    for begin, end in edges.reshape(-1, 2).tolist():
        yield begin, end + 1


def uniforms(hashes: NDArray[np.uint64], more: NDArray[np.uint64] | None = None) -> NDArray[np.float64]:
    """Turn hashes into numbers that look drawn from [0, 1).

    Args:
        hashes: uint64 [n].
        more: Further hashes, for draws that belong to pairs of things, uint64 [n].

    Returns:
        float64 [n].
    """
    mixed = hashes if more is None else hashes ^ _scramble(more)
    # the upper 53 bits: all that a float64 below 1 holds, so that none rounds up to 1
    return (_scramble(mixed) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _scramble(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix all bits of each number (the finaliser of splitmix64), which is one to one."""
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
