"""The answer to a query as people and programs read it: hits with their captions and the words that made the score."""

import json
import time
from dataclasses import dataclass
from typing import Any

from evaluation.words.index import InvertedIndex
from evaluation.words.query import Asked
from evaluation.words.word_list import WordList

SHOWN = 10
"""Words that are named; the rest is one line."""
Part = tuple[str, float]
"""A word and its weight or contribution."""


@dataclass(frozen=True, slots=True)
class HitReport:
    """One hit.

    Attributes:
        image: Its number in the index.
        key: Its sample key.
        split: Its split.
        caption: Its caption.
        score: The sum of ``parts``, exactly.
        parts: What each word contributes, the largest first.
    """

    image: int
    key: str
    split: str
    caption: str
    score: float
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """All there is to say.

    Attributes:
        index: Name of the index.
        asked: The query as it was written.
        query: Its words with their weights, the largest first.
        must: Words that a picture must show.
        must_not: Words that a picture must not show.
        hits: The best first.
        pictures: Pictures in the index.
        matching: Those that fit the query.
        touched: Postings that were read.
        postings: Postings in the index.
        milliseconds: The search took, without the model and the explanations.
    """

    index: str
    asked: str
    query: tuple[Part, ...]
    must: tuple[str, ...]
    must_not: tuple[str, ...]
    hits: tuple[HitReport, ...]
    pictures: int
    matching: int
    touched: int
    postings: int
    milliseconds: float


def answer(name: str, index: InvertedIndex, words: WordList, asked: Asked, top: int) -> Answer:
    """Search, and explain every hit.

    Args:
        name: Of the index.
        index: The index.
        words: Its words.
        asked: The query.
        top: Hits wanted.

    Raises:
        ConfigError: The query has no words or wrong weights.
        DataError: The index is empty.
    """
    begin = time.perf_counter()
    found = index.search(asked.weights, top, asked.must, asked.must_not)
    spent = time.perf_counter() - begin
    hits: list[HitReport] = []
    for hit in found.hits:
        picture: dict[str, Any] = index.pictures.slice(hit.image, 1).to_pylist()[0]
        parts = index.explain(asked.weights, hit.image)
        named = tuple((words.words[word], part) for word, part in parts.items())
        hits.append(HitReport(hit.image, picture["key"], picture["split"], picture["caption"], hit.score, named))
    ordered = sorted(asked.weights.items(), key=lambda item: (-item[1], item[0]))
    query = tuple((words.words[word], weight) for word, weight in ordered)
    must, must_not = (tuple(words.words[word] for word in some) for some in (asked.must, asked.must_not))
    seen = (len(index), found.matching, found.touched, len(index.images))
    return Answer(name, asked.text, query, must, must_not, tuple(hits), *seen, 1000 * spent)


def shown_parts(parts: tuple[Part, ...]) -> tuple[tuple[Part, ...], Part | None]:
    """Return the first ten parts, and all others as one: how many words they are, and their sum; None without any."""
    rest = parts[SHOWN:]
    told = f"{len(rest)} more word{'s' if len(rest) > 1 else ''}"
    return parts[:SHOWN], (told, sum(part for _, part in rest)) if rest else None


def as_text(found: Answer) -> str:
    """Write an answer for a terminal, one hit after the other."""
    lines = [f"{found.asked!r} in index {found.index}: {_listed(found.query)}"]
    for sign, some in (("with", found.must), ("without", found.must_not)):
        lines += [f"only pictures {sign} {', '.join(some)}"] if some else []
    for rank, hit in enumerate(found.hits, 1):
        lines += ["", f"{rank:3d}. {hit.key}  {hit.score:.4f}  {hit.caption}", f"     {_listed(hit.parts)}"]
    what = f"{found.matching:,} of {found.pictures:,} pictures fit"
    read = f"{found.touched:,} of {found.postings:,} postings read in {found.milliseconds:.1f} ms"
    return "\n".join([*lines, "", f"{what}; {read}"])


def _listed(parts: tuple[Part, ...]) -> str:
    first, rest = shown_parts(parts)
    return ", ".join(f"{word} {part:.4f}" for word, part in (*first, *([rest] if rest else ())))


def as_json(found: Answer) -> str:
    """Write an answer for programs: every word of every hit, and numbers in full."""
    hits = [
        {
            "key": hit.key,
            "split": hit.split,
            "caption": hit.caption,
            "score": hit.score,
            "words": dict(hit.parts),
        }
        for hit in found.hits
    ]
    counts = {name: getattr(found, name) for name in ("pictures", "matching", "touched", "postings", "milliseconds")}
    conditions = {"must": list(found.must), "must_not": list(found.must_not)}
    whole = {"index": found.index, "query": found.asked, "words": dict(found.query), **conditions, **counts}
    return json.dumps({**whole, "hits": hits}, indent=2, ensure_ascii=False)
