"""Measure the search for concepts in captions: captions a second of CPU time, on one thread.

Run ``python benchmarks/concept_search.py`` in the repository root; it writes benchmarks/results/concept_search.json.
Words are made up of syllables and drawn by Zipf's law; concepts are one to three of them. Scene captions are sentences
of few forms that name two concepts, web captions are 4 to 20 words with capitals, plurals, punctuation, and here and
there an accent. On a sample, a double loop over captions and concepts must find the same, and one regular expression
of all names shows what it costs and how much of it an alternation finds: it knows no base forms and no overlaps.
"""

import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from record import record

from assets.concepts.concept_list import Concept
from assets.concepts.phrase import PhraseSearch
from assets.concepts.words import forms, name_words, words

ONSETS = ["b", "c", "d", "f", "g", "h", "l", "m", "n", "p", "r", "s", "t", "v", "br", "cl", "gr", "st", "tr"]
RIMES = ["a", "e", "o", "an", "el", "er", "in", "on", "or", "ul", "ack", "end", "ight", "ound"]
FORMS = ["{} next to {}", "a picture of {} and {}", "two {}s, and {} above them on a blue ground", "{} left of {}"]
Found = list[set[int]]


def word_list(size: int, generator: np.random.Generator) -> list[str]:
    """Make up distinct words of two or three syllables, in order of their frequency."""
    found: dict[str, None] = {}
    while len(found) < size:
        syllables = [
            str(generator.choice(ONSETS)) + str(generator.choice(RIMES)) for _ in range(generator.integers(2, 4))
        ]
        found["".join(syllables)] = None
    return list(found)


def concept_names(known: Sequence[str], size: int, generator: np.random.Generator) -> list[str]:
    """Draw names of one to three words; the fifty most frequent words, which stand for "the" and "of", begin none."""
    found: dict[str, None] = {}
    while len(found) < size:
        length = generator.choice([1, 2, 3], p=[0.5, 0.35, 0.15])
        drawn: list[int] = generator.integers(50, len(known) // 4, length).tolist()
        found[" ".join(known[at] for at in drawn)] = None
    return list(found)


def scene_captions(names: Sequence[str], count: int, generator: np.random.Generator) -> list[str]:
    """Write sentences about two concepts each."""
    places = np.minimum(generator.zipf(1.3, (count, 2)) - 1, len(names) - 1).tolist()
    kinds = generator.integers(0, len(FORMS), count).tolist()
    return [FORMS[kind].format(names[a], names[b]) for kind, (a, b) in zip(kinds, places, strict=True)]


def web_captions(known: Sequence[str], names: Sequence[str], count: int, generator: np.random.Generator) -> list[str]:
    """Write runs of words, a third of them with the name of a concept inside."""
    chance = 1 / np.arange(1, len(known) + 1)
    lengths = generator.integers(4, 21, count)
    places: list[int] = generator.choice(len(known), int(lengths.sum()), p=chance / chance.sum()).tolist()
    drawn = iter(places)
    named = np.where(generator.random(count) < 1 / 3, generator.integers(0, len(names), count), -1).tolist()
    kinds = generator.integers(0, 20, count).tolist()
    captions: list[str] = []
    for length, name, kind in zip(lengths.tolist(), named, kinds, strict=True):
        text = [known[next(drawn)] for _ in range(length)]
        if name >= 0:
            text[length // 2] = names[name]
        text[0] = text[0].capitalize() + ("s" if kind % 2 else "")
        text[-1] += ["!", " | shop-online.com", " (2019)", "\u00e9", ""][min(kind, 4)]
        captions.append(" ".join(text))
    return captions


def double_loop(names: Sequence[str], captions: Sequence[str]) -> Found:
    """Compare every name with every place of every caption."""
    wanted = [[forms(word) for word in name_words(name)] for name in names]
    found: Found = []
    for caption in captions:
        there = [forms(word) for word in words(caption)]
        found.append({number for number, phrase in enumerate(wanted) if stands_in(phrase, there)})
    return found


def stands_in(phrase: Sequence[frozenset[str]], there: Sequence[frozenset[str]]) -> bool:
    last = len(there) - len(phrase)
    return any(all(phrase[i] & there[at + i] for i in range(len(phrase))) for at in range(last + 1))


def alternation(names: Sequence[str], captions: Sequence[str]) -> Found:
    """Find names by one regular expression, longer ones first."""
    places = {name: number for number, name in enumerate(names)}
    pattern = re.compile(r"\b(?:" + "|".join(map(re.escape, sorted(names, key=len, reverse=True))) + r")\b")
    return [{places[match] for match in pattern.findall(caption.lower())} for caption in captions]


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    begin = time.process_time()
    result = call()
    return result, time.process_time() - begin


def measure(names: Sequence[str], captions: Sequence[str], sample: int) -> dict[str, Any]:
    """Search one corpus in all ways."""
    search, build = timed(lambda: PhraseSearch([Concept(name, (), "") for name in names]))
    first, cold = timed(lambda: search.find(captions))
    _, warm = timed(lambda: search.find(captions))
    few = captions[:sample]
    ours = [set(first.row(place).tolist()) for place in range(sample)]
    looped, loop_seconds = timed(lambda: double_loop(names, few))
    assert looped == ours, "the double loop finds something else"
    matched, regex_seconds = timed(lambda: alternation(names, few))
    hits = sum(map(len, ours))
    return {
        "captions": len(captions),
        "distinct_words": len({word for caption in captions for word in words(caption)}),
        "concepts_a_caption": round(len(first.concepts) / len(captions), 2),
        "build_seconds": round(build, 2),
        "captions_per_second": round(len(captions) / cold),
        "captions_per_second_words_known": round(len(captions) / warm),
        "sample": sample,
        "double_loop_captions_per_second": round(sample / loop_seconds, 1),
        "double_loop_finds_the_same": True,
        "regex_captions_per_second": round(sample / regex_seconds, 1),
        "regex_share_of_hits": round(sum(len(a & b) for a, b in zip(matched, ours, strict=True)) / hits, 3),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--captions", type=int, default=500_000)
    arguments.add_argument("--concepts", type=int, default=4_000)
    arguments.add_argument("--words", type=int, default=60_000)
    arguments.add_argument("--sample", type=int, default=400, help="captions for the two slow ways")
    given = arguments.parse_args()
    generator = np.random.default_rng(0)
    known = word_list(given.words, generator)
    names = concept_names(known, given.concepts, generator)
    corpora = {
        "scene_captions": scene_captions(names, given.captions, generator),
        "web_captions": web_captions(known, names, given.captions, generator),
    }
    result = {name: measure(names, captions, given.sample) for name, captions in corpora.items()}
    record("concept_search", {"threads": 1, "concepts": len(names), **result})


if __name__ == "__main__":
    main()
