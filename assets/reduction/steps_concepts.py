"""Concepts of captions: the entries that concept_balance counts, and that the report follows.

An entry is the name of a class of the data set, or a word. Captions are lower-cased and cut into runs of letters and
digits, so languages that write without spaces have no entries to speak of.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_AT_ONCE = 1 << 14


@dataclass(frozen=True, slots=True)
class Matches:
    """Which captions mention which entries; each entry once per caption.

    Attributes:
        names: Of the entries, sorted, E of them.
        entries: Of each match, int32 [m].
        pairs: Row of each match, int64 [m].
    """

    names: tuple[str, ...]
    entries: NDArray[np.int32]
    pairs: NDArray[np.int64]

    def counts(self, among: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Return the captions of each entry, int64 [E]; only those of some rows when ``among``, bool [n], is given."""
        chosen = self.entries if among is None else self.entries[among[self.pairs]]
        return np.bincount(chosen, minlength=len(self.names)).astype(np.int64)


def class_names(dataset: Mapping[str, Any]) -> list[str]:
    """Return names and plurals of the classes of a data set, in pairs; empty where it has none.

    Args:
        dataset: The content of dataset.json.
    """
    return [str(entry[form] or entry["name"]) for entry in dataset.get("classes", ()) for form in ("name", "plural")]


def find_concepts(
    captions: pa.StringArray, names: Sequence[str], entries: Literal["auto", "classes", "words"], min_count: int
) -> Matches:
    """Find the entries that captions mention.

    Args:
        captions: [n].
        names: From :func:`class_names`.
        entries: Whether these names are the entries, or words are; auto takes names where there are any.
        min_count: Captions a word must stand in.

    Returns:
        The matches.
    """
    if entries == "classes" or (entries == "auto" and names):
        return _named(captions, names)
    counts: Counter[str] = Counter()
    for _, words in _words(captions):
        counts.update(set(words))
    kept = tuple(sorted(word for word, count in counts.items() if count >= min_count))
    places = {word: place for place, word in enumerate(kept)}
    return _matches(kept, ((row, {places[w] for w in words if w in places}) for row, words in _words(captions)))


def _words(captions: pa.StringArray) -> Iterator[tuple[int, list[str]]]:
    """Yield row and words of every caption."""
    for start in range(0, len(captions), _AT_ONCE):
        for row, caption in enumerate(captions.slice(start, _AT_ONCE).to_pylist(), start):
            yield row, _WORD.findall(caption.lower())


def _named(captions: pa.StringArray, names: Sequence[str]) -> Matches:
    """Find names of one or several words; a plural counts as its singular."""
    singles = [" ".join(_WORD.findall(name.lower())) for name in names[::2]]
    plurals = [" ".join(_WORD.findall(name.lower())) for name in names[1::2]]
    kept = tuple(sorted({name for name in singles if name}))
    places = {name: place for place, name in enumerate(kept)}
    known = {plural: places[single] for single, plural in zip(singles, plurals, strict=True) if single and plural}
    known |= places
    longest = max((name.count(" ") + 1 for name in known), default=0)

    def mentioned(words: list[str]) -> set[int]:
        runs = (" ".join(words[at : at + n]) for n in range(1, longest + 1) for at in range(len(words) - n + 1))
        return {known[run] for run in runs if run in known}

    return _matches(kept, ((row, mentioned(words)) for row, words in _words(captions)))


def _matches(names: tuple[str, ...], found: Iterator[tuple[int, set[int]]]) -> Matches:
    entries: list[NDArray[np.int32]] = [np.empty(0, dtype=np.int32)]
    pairs: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
    waiting: list[int] = []
    rows: list[int] = []
    for row, mentioned in found:
        waiting += sorted(mentioned)
        rows += [row] * len(mentioned)
        if len(waiting) >= _AT_ONCE:  # Python's lists take ten times the memory
            entries.append(np.array(waiting, dtype=np.int32))
            pairs.append(np.array(rows, dtype=np.int64))
            waiting, rows = [], []
    entries.append(np.array(waiting, dtype=np.int32))
    pairs.append(np.array(rows, dtype=np.int64))
    return Matches(names, np.concatenate(entries), np.concatenate(pairs))
