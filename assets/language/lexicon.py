"""The words that a lexical vector lives over, and the rows of the language model's output matrix that stand for them.

A lexicon is two files in a folder of features or of a model: ``vocabulary.json`` with the words, and ``codebook.npy``,
float32 [V, D].
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assets.atomic import write_json
from assets.errors import DataError, message
from assets.manifest import value_digest
from assets.row_files import write_array

VOCABULARY = "vocabulary.json"
CODEBOOK = "codebook.npy"
_MAKE = "make the features, or train the model, anew"


@dataclass(frozen=True, slots=True, eq=False)
class Lexicon:
    """Words and their rows; V words, D numbers wide.

    Attributes:
        words: As people read them, without a word-start mark, all distinct, [V].
        ids: Their tokens in the language model, ascending, [V].
        codebook: Rows of the model's output matrix, float32 [V, D].
        scale: Mean norm of the states that predict a word, over the distinct training captions; rows of features have
            unit norm.
        counts: How many captions of the data set contain each word, [V].
        facts: ``model``, ``model_digest`` and ``prompt``, the digest of the question.
    """

    words: tuple[str, ...]
    ids: tuple[int, ...]
    codebook: NDArray[np.float32]
    scale: float
    counts: tuple[int, ...]
    facts: Mapping[str, Any]
    _places: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_places", {word: place for place, word in enumerate(self.words)})

    @property
    def version(self) -> str:
        """16 hex digits of what a position means: words, tokens, model and prompt, but not the data's counts."""
        asked = {name: self.facts.get(name) for name in ("model_digest", "prompt")}
        return value_digest({"words": list(self.words), "ids": list(self.ids), **asked})

    def place(self, word: str) -> int | None:
        """Return the position of a word; None when it is not in the vocabulary."""
        return self._places.get(word)


def has_lexicon(folder: Path) -> bool:
    """Say whether a folder holds a lexicon."""
    return (folder / VOCABULARY).is_file()


def write_lexicon(folder: Path, lexicon: Lexicon) -> None:
    """Write both files, each atomically; the folder is made when missing."""
    write_array(folder / CODEBOOK, np.ascontiguousarray(lexicon.codebook))
    vocabulary = {
        "version": lexicon.version,
        "words": list(lexicon.words),
        "ids": list(lexicon.ids),
        "counts": list(lexicon.counts),
        "scale": lexicon.scale,
        "facts": dict(lexicon.facts),
    }
    write_json(folder / VOCABULARY, vocabulary)


def read_lexicon(folder: Path) -> Lexicon:
    """Read and check what :func:`write_lexicon` wrote.

    Args:
        folder: Of features or of a model.

    Returns:
        The lexicon.

    Raises:
        DataError: A file is missing or damaged, or the two do not fit each other.
    """
    path = folder / VOCABULARY
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        codebook: NDArray[np.float32] = np.load(folder / CODEBOOK, allow_pickle=False)
        lexicon = Lexicon(
            words=tuple(str(word) for word in told["words"]),
            ids=tuple(int(number) for number in told["ids"]),
            codebook=codebook,
            scale=float(told["scale"]),
            counts=tuple(int(count) for count in told["counts"]),
            facts=dict(told["facts"]),
        )
        version = str(told["version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"{folder} holds no readable {VOCABULARY} and {CODEBOOK} ({error})"
        raise DataError(message(what, fix=_MAKE)) from error
    _check(lexicon, version, path)
    return lexicon


def _check(lexicon: Lexicon, version: str, path: Path) -> None:
    number = len(lexicon.words)
    if not number or len(set(lexicon.words)) < number or not len(lexicon.ids) == len(lexicon.counts) == number:
        got = f"{number} words, {len(lexicon.ids)} ids and {len(lexicon.counts)} counts"
        raise DataError(message(f"{path} is damaged", got, "as many of each, no word twice", _MAKE))
    codebook = lexicon.codebook
    if codebook.dtype != np.float32 or codebook.ndim != 2 or len(codebook) != number:
        got, wanted = f"{codebook.dtype} {list(codebook.shape)}", f"float32 [{number}, D]"
        raise DataError(message(f"{path.with_name(CODEBOOK)}: wrong array", got, wanted, _MAKE))
    if not (np.isfinite(codebook).all() and np.isfinite(lexicon.scale) and lexicon.scale > 0):
        what = f"the codebook or scale beside {path} is not finite, or the scale not above 0"
        raise DataError(message(what, fix=_MAKE))
    if version != lexicon.version:
        raise DataError(message(f"{path} was changed after it was written", lexicon.version, version, _MAKE))
