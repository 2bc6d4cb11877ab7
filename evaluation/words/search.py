"""Command ``search``: pictures for a sentence or for words, each with the words that made it a hit."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from assets.atomic import write_text
from assets.config import load_machine
from assets.errors import ConfigError, DataError, message
from assets.manifest import MANIFEST, read_manifest, version_of
from assets.progress import Stage
from assets.section import parse, unknown
from evaluation.words.answer import answer, as_json, as_text
from evaluation.words.cut import cut
from evaluation.words.index import KIND, InvertedIndex, load_index, query_of
from evaluation.words.index_config import IndexConfig
from evaluation.words.query import Asked, numbers, parse_words
from evaluation.words.word_list import WordList, read_words, words_or_refuse


@dataclass(frozen=True, slots=True)
class Folders:
    """Where things are.

    Attributes:
        indexes: Holds the indexes.
        models: Holds ``R/`` of ``pretrain``'s exports.
        raw: Holds the data sets.
        params: The params.yaml; section ``machine``, and ``store`` when shards are URLs.
    """

    indexes: Path
    models: Path
    raw: Path
    params: Path


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked, and how the answer is wanted.

    Attributes:
        sentence: A sentence for the model's text side, or None.
        words: A query of words, see ``evaluation/words/query.py``, or None.
        must: Further words that a picture must show.
        must_not: Further words that a picture must not show.
        top: Hits wanted.
        index: Name of the index; None for the only one there is.
        html: A page to write, or None.
        json: Print JSON instead of text.
    """

    sentence: str | None
    words: str | None
    must: Sequence[str] = ()
    must_not: Sequence[str] = ()
    top: int = 10
    index: str | None = None
    html: Path | None = None
    json: bool = False


@dataclass(frozen=True, slots=True)
class OpenIndex:
    """An index with what its manifest says.

    Attributes:
        name: Its name.
        index: The postings.
        words: Its words.
        config: The entry of params.yaml that made it.
        inputs: Versions of data and model.
    """

    name: str
    index: InvertedIndex
    words: WordList
    config: IndexConfig
    inputs: dict[str, str]


def search(request: Request, folders: Folders) -> None:
    """Answer a query on the standard output, and as a page if one is wanted.

    Args:
        request: The query.
        folders: Where things are.

    Raises:
        ConfigError: Neither or both of sentence and words are given, a word is unknown, no word of the query is left,
            or there is no such index.
        DataError: The index is damaged or empty, model or vocabulary are not those that it was made with, or a
            picture is missing.
    """
    if (request.sentence is None) == (request.words is None):
        raise ConfigError(message("ask with a sentence or with --words", fix="give one of the two"))
    if request.top < 1:
        raise ConfigError(message("--top", request.top, "1 or more"))
    opened = open_index(folders.indexes, request.index)
    model = folders.models / opened.config.run
    # words alone need no model; one that is there must still be that of the index
    if request.words is None or request.html is not None or (model / MANIFEST).is_file():
        check_model(opened, model)
    asked = _asked(request, opened, model, folders.params)
    found = answer(opened.name, opened.index, opened.words, asked, request.top)
    if request.html is not None:
        # imported late: an answer in the terminal needs neither pictures nor templates
        from evaluation.words.page import Sources, render_page

        sources = Sources(folders.raw / opened.config.dataset, model, folders.params)
        write_text(request.html, render_page(found, opened.words, sources))
    print(as_json(found) if request.json else as_text(found))


def open_index(indexes: Path, name: str | None) -> OpenIndex:
    """Open an index by name.

    Args:
        indexes: Folder of the indexes.
        name: Which one; None for the only one there is.

    Raises:
        ConfigError: There is no such index, none at all, or several and no name.
        DataError: It is damaged.
    """
    names = sorted(path.parent.name for path in indexes.glob(f"*/{MANIFEST}"))
    if not names:
        fix = 'add an entry to the section indexes of params.yaml and run "dvc repro"'
        raise ConfigError(message(f"there is no index in {indexes}", fix=fix))
    if name is None and len(names) > 1:
        raise ConfigError(message(f"there are several indexes: {', '.join(names)}", fix="choose one with --index"))
    chosen = names[0] if name is None else name
    if chosen not in names:
        raise ConfigError(f"{indexes}: {unknown(chosen, names, 'index')}")
    folder = indexes / chosen
    manifest = read_manifest(folder, KIND)
    config = parse(IndexConfig, manifest["config"].get("entry"), f"{folder / MANIFEST}: entry")
    index, words = load_index(folder), read_words(folder)
    if index.num_words != len(words.words):
        what = f"the index in {folder} has postings of other words than it lists"
        raise DataError(message(what, index.num_words, len(words.words), "make the index anew"))
    return OpenIndex(chosen, index, words, config, manifest["inputs"])


def check_model(opened: OpenIndex, model: Path) -> None:
    """Refuse a model that is not the one an index was made with.

    Args:
        opened: The index.
        model: The model folder.

    Raises:
        DataError: It is missing, unfinished or of another version.
    """
    read_manifest(model, "model")
    if (version := version_of(model)) != opened.inputs.get("model"):
        what = f"index {opened.name} was made with another version of {model}"
        raise DataError(message(what, version, opened.inputs.get("model"), _again(opened)))


def _again(opened: OpenIndex) -> str:
    return f'run "dvc repro index@{opened.name}"'


def _asked(request: Request, opened: OpenIndex, model: Path, params: Path) -> Asked:
    words = opened.words
    must, must_not = numbers(request.must, words), numbers(request.must_not, words)
    if request.words is not None:
        asked = parse_words(request.words, words)
    else:
        assert request.sentence is not None
        asked = Asked(request.sentence, _sentence_weights(request.sentence, opened, model, params))
    return Asked(asked.text, asked.weights, (*asked.must, *must), (*asked.must_not, *must_not))


def _sentence_weights(sentence: str, opened: OpenIndex, model: Path, params: Path) -> dict[int, float]:
    """Take a sentence through the text side, and cut its vector as those of pictures were cut."""
    if not sentence.strip():
        raise ConfigError(message("the query is empty", sentence, "a sentence"))
    # imported late: a query of words needs no model
    from evaluation.encoder import load_encoder

    # quiet, because the answer is what people came for
    with Stage("search", quiet=True) as stage:
        text: Any = load_encoder(model, load_machine(params), 1, stage).text
        check_vocabulary(opened, text)
        vector = np.asarray(text.encode([sentence]))  # [1, V]
    return query_of(cut(vector, opened.config.cut))


def check_vocabulary(opened: OpenIndex, text: Any) -> None:
    """Refuse a text side whose vectors are over other words than those of an index.

    Args:
        opened: The index.
        text: The text side of a model.

    Raises:
        ConfigError: Its vectors are not over words.
        DataError: They are over other words.
    """
    words = words_or_refuse(text, opened.config.run)
    if words.version != opened.words.version:
        what = f"index {opened.name} was made with another version of the vocabulary than model {opened.config.run} has"
        raise DataError(message(what, words.version, opened.words.version, _again(opened)))
