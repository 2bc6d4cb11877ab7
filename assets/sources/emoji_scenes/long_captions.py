"""Long captions: seven to ten English sentences, each about one facet of the picture."""

from random import Random

from assets.sources.emoji_scenes import names
from assets.sources.emoji_scenes.captions import list_of_things
from assets.sources.emoji_scenes.claims import Claim, Claims, position
from assets.sources.emoji_scenes.scene import Box

LEAST, MOST = 7, 10
_ART = {
    "twemoji": "It is drawn in a flat style without outlines.",
    "openmoji": "It is drawn in a simple style with thick black outlines.",
}
_TEXTURE = {
    "plain": "The backdrop is plain and even.",
    "striped": "Stripes run across the backdrop.",
    "checkered": "The backdrop is made of checks in two tones.",
    "dotted": "Round dots are spread over the backdrop.",
    "shaded": "The backdrop slowly changes from light to dark.",
    "grainy": "The backdrop is covered with fine grain.",
}
_GROUP = {
    "animals": "nature",
    "food": "food and drink",
    "travel": "travel and places",
    "activities": "games and celebrations",
    "objects": "everyday objects",
    "people": "people",
    "smileys": "faces",
}


def long_caption(claims: Claims, rng: Random) -> str:
    """Word a long caption.

    Args:
        claims: What to say.
        rng: Chooses the number of sentences and which of the optional facets are told.

    Returns:
        Between ``LEAST`` and ``MOST`` sentences.
    """
    things = claims.things
    needed = [
        f"The picture shows {list_of_things(claims)}.",
        *(_thing(thing, claims.side) for thing in things),
        f"Behind everything lies a {claims.background.colour} background.",
        _ART[claims.style],
    ]
    optional = [_total(things), _layout(claims), _TEXTURE[claims.background.texture], _groups(things)]
    if len(things) > 1:
        optional = [_relation(things[0], things[1]), _largest(things), *optional]
    wanted = LEAST + int(rng.random() * (MOST - LEAST + 1))
    room = min(max(wanted, len(needed)), MOST) - len(needed)
    kept = sorted(rng.sample(range(len(optional)), min(room, len(optional))))
    middle = len(needed) - 2
    return " ".join([*needed[:middle], *(optional[i] for i in kept), *needed[middle:]])


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _verb(thing: Claim, one: str, many: str) -> str:
    return many if names.is_many(thing.concept.name, thing.count) else one


def _the(thing: Claim) -> str:
    return names.definite(thing.concept.name, thing.count)


def _where(boxes: tuple[Box, ...], side: int) -> str:
    places = list(dict.fromkeys(f"at the {position(box, side)}" for box in boxes))
    return names.join([place.replace("at the centre", "in the centre") for place in places])


def _thing(thing: Claim, side: int) -> str:
    verb, stand = _verb(thing, "is", "are"), _verb(thing, "stands", "stand")
    return f"{_capital(_the(thing))} {verb} mainly {thing.colour} and {stand} {_where(thing.boxes, side)}."


def _relation(a: Claim, b: Claim) -> str:
    first, second = a.boxes[0], b.boxes[0]
    right = (first.x0 + first.x1) - (second.x0 + second.x1)
    below = (first.y0 + first.y1) - (second.y0 + second.y1)
    if abs(right) >= abs(below):
        side = "to the right of" if right > 0 else "to the left of"
    else:
        side = "below" if below > 0 else "above"
    one_a, one_b = (names.definite(thing.concept.name, 1) for thing in (a, b))
    if len(a.boxes) > 1:
        one_a = f"one of {_the(a)}"
        return f"{_capital(one_a)} is {side} {one_b}."
    return f"{_capital(one_a)} {_verb(a, 'is', 'are')} {side} {one_b}."


def _largest(things: tuple[Claim, ...]) -> str:
    def area(thing: Claim) -> int:
        return max((box.x1 - box.x0) * (box.y1 - box.y0) for box in thing.boxes)

    biggest = max(things, key=area)
    return f"The largest of all {_verb(biggest, 'is', 'are')} {names.definite(biggest.concept.name, 1)}."


def _total(things: tuple[Claim, ...]) -> str:
    total = sum(thing.count for thing in things)
    kinds = f"{names.NUMBERS[len(things)]} {'kind' if len(things) == 1 else 'kinds'}"
    if total == 1:
        return "It is the only object."
    return f"There are {names.NUMBERS[total]} objects of {kinds} in total."


def _layout(claims: Claims) -> str:
    covered = sum((box.x1 - box.x0) * (box.y1 - box.y0) for thing in claims.things for box in thing.boxes)
    share = covered / claims.side**2
    if share < 0.2:
        return "Most of the picture is left empty."
    if share < 0.4:
        return "About a third of the picture is filled."
    return "The picture is well filled."


def _groups(things: tuple[Claim, ...]) -> str:
    groups = list(dict.fromkeys(_GROUP[thing.concept.group] for thing in things))
    return f"The theme is {names.join(groups)}."
