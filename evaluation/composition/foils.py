"""Foils: captions that are false of a picture and differ from a true one as little as possible.

The kinds follow the split of SugarCrepe (Hsieh et al. 2023, https://arxiv.org/abs/2306.14610) into replaced and swapped
parts; wording and rules are our own. Kinds that replace edit the picture's caption, where what they replace is found
exactly once, worded as ``assets/sources/emoji_scenes/names.py`` words a counted name. Kinds that swap what short
captions never say (colours and places of things) word both sentences anew; both then consist of the same words, so only
their order tells them apart.

- ``replace_thing``: "an apple and a dog" -> "an apple and a cow"; the new thing is a class of the same group whose name
  shares no word with anything in the picture.
- ``replace_number``: more things than there are; fewer would be true as well.
- ``swap_numbers``: "two apples and a dog" -> "an apple and two dogs".
- ``replace_colour``, ``replace_texture``: of the background, by another one that the split has.
- ``swap_colours``: "a red apple and a white dog" -> "a white apple and a red dog".
- ``swap_places``: "the apple is above the dog" -> "the dog is above the apple".
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from assets.sources.emoji_scenes import names
from evaluation.composition.scene import Scene
from evaluation.true_words import words_in

if TYPE_CHECKING:
    from evaluation.composition.kinds import FoilKind
    from evaluation.samples import ClassFacts

_MOST_MORE = 3
# with a verb, another number asks for another form of it
_VERB = re.compile(r"\b(is|are|was|were|has|have|stands?|lies?)\b", re.IGNORECASE)
_SMALL = frozenset("a an and at behind by for from in of on or over the to under with without".split())


class Foil(NamedTuple):
    """A pair of sentences.

    Attributes:
        caption: True of the picture.
        foil: False of it.
    """

    caption: str
    foil: str


@dataclass(frozen=True, slots=True)
class Telling:
    """One picture to make a foil for.

    Attributes:
        caption: Its caption.
        scene: What is in it.
        rng: Chooses among foils.
    """

    caption: str
    scene: Scene
    rng: Random

    def shuffled(self) -> list[str]:
        """Return the names of things in random order."""
        return self.rng.sample(list(self.scene.counts), len(self.scene.counts))


def edit(caption: str, changes: Mapping[str, str]) -> str | None:
    """Replace phrases that stand in a caption exactly once, as whole words.

    Args:
        caption: The caption.
        changes: Phrase -> what takes its place; a capital at the beginning is kept.

    Returns:
        None where a phrase is missing or ambiguous, or two of them share words.
    """
    found: list[tuple[int, int, str]] = []
    for phrase, new in changes.items():
        places = list(re.finditer(rf"(?<!\w){re.escape(phrase)}(?!\w)", caption, re.IGNORECASE))
        if len(places) != 1:
            return None
        start, stop = places[0].span()
        found.append((start, stop, new[:1].upper() + new[1:] if caption[start].isupper() else new))
    found.sort()
    if any(later[0] < earlier[1] for earlier, later in pairwise(found)):
        return None
    for start, stop, new in reversed(found):
        caption = caption[:start] + new + caption[stop:]
    return caption


def alike(one: str, other: str) -> bool:
    """Say whether two names may mean the same thing: some word of one ends as a word of the other does.

    Args:
        one: E.g. ``sunglasses``.
        other: E.g. ``glasses``.
    """
    ours, theirs = (set(words_in(name)) - _SMALL for name in (one, other))
    return any(a.endswith(b) or b.endswith(a) for a in ours for b in theirs)


class FoilMaker:
    """Makes foils for the pictures of one split.

    Args:
        classes: The zero-shot classes: things that may take another's place.
        scenes: Of the split; the colours and textures that backgrounds have there.
    """

    def __init__(self, classes: Sequence["ClassFacts"], scenes: Iterable[Scene]) -> None:
        self._groups = {facts.name: facts.group for facts in classes}
        backgrounds = {scene.background for scene in scenes if scene.background}
        self._textures, self._colours = (sorted({told[part] for told in backgrounds}) for part in (0, 1))
        self._makers: Mapping[FoilKind, Callable[[Telling], Foil | None]] = {
            "replace_thing": self._replace_thing,
            "replace_number": _replace_number,
            "swap_numbers": _swap_numbers,
            "replace_colour": self._replace_colour,
            "replace_texture": self._replace_texture,
            "swap_colours": _swap_colours,
            "swap_places": _swap_places,
        }

    def make(self, kind: "FoilKind", key: str, caption: str, scene: Scene) -> Foil | None:
        """Make one foil.

        Args:
            kind: What is to be wrong.
            key: Of the sample; decides among several foils.
            caption: True of the picture.
            scene: What is in the picture.

        Returns:
            None where the picture or its caption allows no foil of this kind.
        """
        return self._makers[kind](Telling(caption, scene, Random(f"{key}/{kind}")))

    def _replace_thing(self, told: Telling) -> Foil | None:
        for name in told.shuffled():
            count = told.scene.counts[name]
            others = [
                other
                for other, group in self._groups.items()
                if group == self._groups.get(name)
                and _grammar(other) == _grammar(name)
                and not any(alike(other, present) for present in told.scene.counts)
            ]
            if others:
                new = names.counted(told.rng.choice(others), count)
                if foil := edit(told.caption, {names.counted(name, count): new}):
                    return Foil(told.caption, foil)
        return None

    def _replace_colour(self, told: Telling) -> Foil | None:
        if told.scene.background is None:
            return None
        texture, colour = told.scene.background
        return _other_background(told, [(texture, other) for other in self._colours if other != colour])

    def _replace_texture(self, told: Telling) -> Foil | None:
        if told.scene.background is None:
            return None
        texture, colour = told.scene.background
        return _other_background(told, [(other, colour) for other in self._textures if other != texture])


def _grammar(name: str) -> tuple[bool, bool]:
    """Return what decides the form of words around a name."""
    return names.is_mass(name), names.is_plural(name)


def _other_background(told: Telling, others: Sequence[tuple[str, str]]) -> Foil | None:
    if not others or told.scene.background is None:
        return None
    changes = {_background(told.scene.background): _background(told.rng.choice(others))}
    foil = edit(told.caption, changes)
    return Foil(told.caption, foil) if foil else None


def _background(told: tuple[str, str]) -> str:
    return f"{names.article(told[0])} {told[0]} {told[1]} background"


def _replace_number(told: Telling) -> Foil | None:
    if _VERB.search(told.caption):
        return None
    for name in told.shuffled():
        count = told.scene.counts[name]
        more = [number for number in range(count + 1, count + 1 + _MOST_MORE) if number < len(names.NUMBERS)]
        if more and (
            foil := edit(told.caption, {names.counted(name, count): names.counted(name, told.rng.choice(more))})
        ):
            return Foil(told.caption, foil)
    return None


def _swap_numbers(told: Telling) -> Foil | None:
    if _VERB.search(told.caption):
        return None
    counts = told.scene.counts
    for one, other in combinations(told.shuffled(), 2):
        swapped = {one: counts[other], other: counts[one]}
        if counts[one] != counts[other] and max(swapped.values()) < len(names.NUMBERS):
            changes = {names.counted(name, counts[name]): names.counted(name, new) for name, new in swapped.items()}
            if foil := edit(told.caption, changes):
                return Foil(told.caption, foil)
    return None


def _single_pairs(told: Telling) -> Iterable[tuple[str, str]]:
    """Return pairs of different things that are there once each, in random order."""
    single = [name for name in told.shuffled() if told.scene.counts[name] == 1]
    return ((one, other) for one, other in combinations(single, 2) if not alike(one, other))


def _swap_colours(told: Telling) -> Foil | None:
    for pair in _single_pairs(told):
        colours = [told.scene.single(name).colour for name in pair]
        known = all(colours) and colours[0] != colours[1]
        # "a white red heart" is no sentence about a colour
        if known and not any(alike(name, colour) for name in pair for colour in colours):
            true = [_coloured(name, colour) for name, colour in zip(pair, colours, strict=True)]
            false = [_coloured(name, colour) for name, colour in zip(pair, reversed(colours), strict=True)]
            return Foil(" and ".join(true), " and ".join(false))
    return None


def _coloured(name: str, colour: str) -> str:
    plain = names.is_mass(name) or names.is_plural(name)
    return f"{'some' if plain else names.article(colour)} {colour} {name}"


def _swap_places(told: Telling) -> Foil | None:
    for one, other in _single_pairs(told):
        if place := _place(told.scene.single(one).box, told.scene.single(other).box):
            return Foil(_placed(one, place, other), _placed(other, place, one))
    return None


def _place(one: Sequence[float], other: Sequence[float]) -> str | None:
    """Say where the first box is, seen from the second, by the direction with the widest gap; None without a gap."""
    gaps = {
        "to the left of": other[0] - one[2],
        "to the right of": one[0] - other[2],
        "above": other[1] - one[3],
        "below": one[1] - other[3],
    }
    widest = max(gaps, key=lambda place: gaps[place])
    return widest if gaps[widest] >= 0 else None


def _placed(one: str, place: str, other: str) -> str:
    verb = "are" if names.is_many(one, 1) else "is"
    return f"{names.definite(one, 1)} {verb} {place} {names.definite(other, 1)}"
