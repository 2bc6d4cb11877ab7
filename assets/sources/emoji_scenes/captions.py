"""Captions: short English ones in many wordings, and lists of names in the other languages."""

from random import Random

from assets.sources.emoji_scenes import names
from assets.sources.emoji_scenes.backgrounds import Background
from assets.sources.emoji_scenes.claims import Claims

_OPENINGS = ("{}", "{}", "a picture of {}", "a photo of {}", "an image of {}", "a drawing of {}", "there is {} here")
_MANY_OPENINGS = (*_OPENINGS[:-1], "there are {} here")
_BACKGROUND_SHARE = 0.6


def background_phrase(background: Background) -> str:
    """Return "a striped blue background"."""
    return f"a {background.texture} {background.colour} background"


def list_of_things(claims: Claims, order: list[int] | None = None) -> str:
    """Return "an apple, two dogs, and a car" for the things in the given order."""
    chosen = claims.things if order is None else [claims.things[i] for i in order]
    return names.join([names.counted(thing.concept.name, thing.count) for thing in chosen])


def short(claims: Claims, rng: Random) -> str:
    """Word a short English caption: a counted list, often with the background.

    Args:
        claims: What to say.
        rng: Chooses order, opening and whether the background is named.
    """
    order = list(range(len(claims.things)))
    rng.shuffle(order)
    listed = list_of_things(claims, order)
    if rng.random() < _BACKGROUND_SHARE:
        return _open(rng, claims, order, f"{listed} on {background_phrase(claims.background)}")
    return _open(rng, claims, order, listed)


def _open(rng: Random, claims: Claims, order: list[int], text: str) -> str:
    first = claims.things[order[0]]
    many = len(order) > 1 or names.is_many(first.concept.name, first.count)
    openings = _MANY_OPENINGS if many else _OPENINGS
    return openings[int(rng.random() * len(openings))].format(text)


def full(claims: Claims) -> str:
    """Word the most telling short caption: everything, in the scene's own order.

    Args:
        claims: What to say.
    """
    return f"{list_of_things(claims)} on {background_phrase(claims.background)}"


def translated(claims: Claims) -> dict[str, str]:
    """Return language -> list of names joined as that language does.

    Args:
        claims: What to say.
    """
    found: dict[str, str] = {}
    for language in names.LANGUAGES:
        parts = [
            thing.concept.localised[language]
            if thing.count == 1
            else names.counted_localised(thing.concept.localised[language], thing.count)
            for thing in claims.things
        ]
        found[language] = parts[0] if len(parts) == 1 else names.join(parts, language)
    return found
