"""Policy ``phrase``: a caption names a concept where the concept's words stand in it side by side.

A word of a concept matches a word of a caption when they have a form in common, out of the word as it stands and its
base form; case does not count. A concept is found by its name and by each of its aliases, without what stands in
parentheses. It counts once per caption, an empty caption has none, and a concept that is named nowhere counts 0.

How the search is fast: the words of names get numbers, the *symbols*. All words of captions that match the same symbols
are one *class*, which is looked up once per distinct word. Captions become an array of classes, and a trie over the
symbols is walked from all places of some thousand captions at once.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from assets.concepts.concept_list import Concept
from assets.concepts.csr import Csr
from assets.concepts.words import END, cut_captions, forms, name_words
from assets.errors import ConfigError, message

AT_ONCE = 1 << 14
"""Captions of one walk."""
_REMEMBERED = 1 << 20
"""Distinct words whose class is kept; captions of the web have a new one in every other caption."""
_NOTHING, _END = 0, 1
_SHOWN = 3
Token = TypeVar("Token", bound=Hashable)
Forms = frozenset[str]


class PhraseSearch:
    """Finds concepts in captions."""

    def __init__(self, concepts: Sequence[Concept]) -> None:
        """Cut the names.

        Args:
            concepts: In list order, K of them.

        Raises:
            ConfigError: A name or an alias has no letter and no digit.
        """
        names = [(number, name) for number, one in enumerate(concepts) for name in (one.name, *one.aliases)]
        phrases = [(number, name_words(name)) for number, name in names]
        if bad := [name for (_, name), (_, words) in zip(names, phrases, strict=True) if not words]:
            shown = ", ".join(map(repr, bad[:_SHOWN])) + (", ..." if len(bad) > _SHOWN else "")
            what = f"{len(bad)} names of concepts have no letter and no digit to search for ({shown})"
            raise ConfigError(message(what, fix="mend them in the list, or drop them"))
        self._matcher = PhraseMatcher(
            [(number, [forms(word) for word in words]) for number, words in phrases], forms, end=END
        )

    def find(self, captions: Sequence[str | None]) -> Csr:
        """Find concepts.

        Args:
            captions: n of them; None is an empty one.

        Returns:
            The concepts of every caption, n rows; the same however the captions are split among calls.
        """
        starts = range(0, len(captions), AT_ONCE)
        return _joined(self._matcher.find_ended(cut_captions(captions[at : at + AT_ONCE])) for at in starts)


class PhraseMatcher(Generic[Token]):
    """Finds sequences of sets of forms in sequences of tokens that have forms."""

    def __init__(
        self,
        phrases: Iterable[tuple[int, Sequence[Forms]]],
        forms_of: Callable[[Token], Forms],
        end: Token | None = None,
    ) -> None:
        """Build the trie.

        Args:
            phrases: Number of a concept, and the forms of each of the words it is called by, one or more.
            forms_of: Forms of a token of a caption.
            end: The token that parts captions in :meth:`find_ended`.
        """
        self._trie = _Trie()
        for number, words in phrases:
            self._trie.add(number, words)
        self._trie.freeze()
        self._classes = _Classes(self._trie.symbols_of_form, forms_of, end)

    def find(self, document: Sequence[Token]) -> list[int]:
        """Return the concepts of one sequence of tokens, ascending."""
        classes = [self._classes[token] for token in document]
        return self._walk(np.array([*classes, _END], dtype=np.int64)).concepts.tolist()

    def find_ended(self, tokens: Sequence[Token]) -> Csr:
        """Return the concepts of many sequences, each of which is closed by the token that parts them.

        Args:
            tokens: Of all sequences, one after another.

        Returns:
            One row per sequence.
        """
        if len(self._classes) > _REMEMBERED:
            self._classes.forget()
        classes = np.fromiter(map(self._classes.__getitem__, tokens), dtype=np.int64, count=len(tokens))
        return self._walk(classes)

    def _walk(self, classes: NDArray[np.int64]) -> Csr:
        """Walk the trie from every place at once.

        Args:
            classes: Of all tokens, _END after each sequence, [T].
        """
        ends = classes == _END
        trie, symbols = self._trie, self._classes.symbols()
        places = np.flatnonzero(classes > _END)
        nodes = np.zeros(len(places), dtype=np.int64)
        reached: list[NDArray[np.int64]] = []
        found: list[NDArray[np.int32]] = []
        while len(places):
            # a token has the symbols of its class, so one walk may part in several here
            sizes = np.diff(symbols.pointer)[classes[places]]
            there = symbols.take(classes[places]).concepts
            places, nodes = trie.step(np.repeat(places, sizes), np.repeat(nodes, sizes), there)
            sizes = np.diff(trie.concepts.pointer)[nodes]
            reached.append(np.repeat(places, sizes))
            found.append(trie.concepts.take(nodes).concepts)
            goes_on = trie.has_more[nodes]
            places, nodes = places[goes_on] + 1, nodes[goes_on]
            known = classes[places] > _END  # a sequence ends before its last place is passed
            places, nodes = places[known], nodes[known]
        rows = np.cumsum(ends) - ends
        at = np.concatenate([np.zeros(0, dtype=np.int64), *reached])
        return _unique(rows[at], np.concatenate([np.zeros(0, dtype=np.int32), *found]), int(ends.sum()))


class _Trie:
    """Phrases by their first symbols; node 0 is the start of all."""

    def __init__(self) -> None:
        self.symbols_of_form: dict[str, list[int]] = {}
        """Form -> numbers of all distinct words of phrases that have it."""
        self._symbols: dict[Forms, int] = {}
        self._edges: dict[tuple[int, int], int] = {}
        self._named: list[set[int]] = [set()]

    def add(self, number: int, words: Sequence[Forms]) -> None:
        """Add a phrase of a concept."""
        node = 0
        for word in words:
            if word not in self._symbols:
                self._symbols[word] = len(self._symbols)
                for form in word:
                    self.symbols_of_form.setdefault(form, []).append(self._symbols[word])
            edge = (node, self._symbols[word])
            if edge not in self._edges:
                self._edges[edge] = len(self._named)
                self._named.append(set())
            node = self._edges[edge]
        self._named[node].add(number)

    def freeze(self) -> None:
        """Make arrays of it."""
        edges = sorted((node * len(self._symbols) + symbol, to) for (node, symbol), to in self._edges.items())
        self._keys = np.array([key for key, _ in edges], dtype=np.int64)
        self._ends = np.array([end for _, end in edges], dtype=np.int64)
        self._first = np.full(len(self._symbols), -1, dtype=np.int64)
        for (node, symbol), end in self._edges.items():
            if node == 0:
                self._first[symbol] = end
        self.has_more = np.zeros(len(self._named), dtype=np.bool_)
        self.has_more[[node for node, _ in self._edges]] = True
        self.concepts = Csr.of_rows([sorted(named) for named in self._named])

    def step(
        self, places: NDArray[np.int64], nodes: NDArray[np.int64], symbols: NDArray[np.int32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Go from nodes along symbols; return places and nodes of the walks that do not end there, [j] each."""
        if not nodes.any():  # all walks begin
            ends = self._first[symbols]
            alive = ends >= 0
            return places[alive], ends[alive]
        wanted = nodes * len(self._first) + symbols
        at = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        alive = self._keys[at] == wanted
        return places[alive], self._ends[at[alive]]


class _Classes(dict[Token, int], Generic[Token]):
    """Class of each token that was met."""

    def __init__(
        self, symbols_of_form: dict[str, list[int]], forms_of: Callable[[Token], Forms], end: Token | None
    ) -> None:
        super().__init__()
        self._symbols_of_form = symbols_of_form
        self._forms_of = forms_of
        self._end = end
        self._numbers: dict[tuple[int, ...], int] = {(): _NOTHING}
        self._rows: list[list[int]] = [[], []]
        self._table = Csr.of_rows(self._rows)
        self.forget()

    def __missing__(self, token: Token) -> int:
        of_form = (self._symbols_of_form.get(form, ()) for form in self._forms_of(token))
        symbols = tuple(sorted(set(chain.from_iterable(of_form))))
        if symbols not in self._numbers:
            self._numbers[symbols] = len(self._rows)
            self._rows.append(list(symbols))
        self[token] = self._numbers[symbols]
        return self[token]

    def forget(self) -> None:
        """Drop the tokens, but keep the classes."""
        self.clear()
        if self._end is not None:
            self[self._end] = _END

    def symbols(self) -> Csr:
        """Return the symbols of each class so far, one row per class."""
        if len(self._table) != len(self._rows):
            self._table = Csr.of_rows(self._rows)
        return self._table


def _unique(rows: NDArray[np.int64], concepts: NDArray[np.int32], num_rows: int) -> Csr:
    """Make rows of pairs in any order and with repeats."""
    width = int(concepts.max(initial=0)) + 1
    cells = np.unique(rows * width + concepts)
    pointer = np.zeros(num_rows + 1, dtype=np.int64)
    np.cumsum(np.bincount(cells // width, minlength=num_rows), out=pointer[1:])
    return Csr(pointer, (cells % width).astype(np.int32))


def _joined(parts: Iterator[Csr]) -> Csr:
    """Return the rows of several, one after another."""
    pointers, concepts = [np.zeros(1, dtype=np.int64)], [np.zeros(0, dtype=np.int32)]
    for part in parts:
        pointers.append(part.pointer[1:] + pointers[-1][-1])
        concepts.append(part.concepts)
    return Csr(np.concatenate(pointers), np.concatenate(concepts))
