"""What the frozen language model is asked about a caption (FLAME, Cao et al., CVPR 2025), in our own words.

A wrapper goes around the caption, then come the facets: each asks for one word and ends in an opening quote, the token
whose hidden state is the embedding. :func:`clean_caption` comes before all of it. This module stays light: it is
imported wherever params.yaml is read.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from assets.errors import ConfigError, message
from assets.manifest import value_digest
from assets.section import Section, unknown

CLEANING_VERSION = 1
"""Of :func:`clean_caption`; goes into manifests, since another cleaning means other rows."""

WrapperName = Literal["short", "long"]

_NEEDS_NO_STOP = (".", "?", '"', "'")


def clean_caption(caption: str) -> str:
    """Make a caption fit to stand between double quotes and to be followed by a full stop.

    Args:
        caption: Any text; the empty one stays empty.

    Returns:
        The caption ending in a full stop or a quote, without double quotes; cleaning it again changes nothing.
    """
    if caption and not caption.endswith(_NEEDS_NO_STOP):
        caption += "."
    caption = caption.replace('"', "'")
    return f"{caption[:-1]}." if caption.endswith("?") else caption


class Wrapper(Section):
    """The text around a caption."""

    before: str
    """Ends in the double quote that opens the caption."""
    after: str
    """Begins with the double quote that closes it."""


class Wrappers(Section):
    """One wrapper for each kind of caption."""

    short: Wrapper
    """For alt texts and captions of a sentence."""
    long: Wrapper
    """For descriptions of several sentences."""


class Facet(Section):
    """One question."""

    name: str
    text: str = Field(min_length=1)
    """Follows the wrapper; its last token is the one that is pooled."""


class PromptSet(Section):
    """Wrappers and facets, in the order of the rows that an encoder makes of them."""

    wrappers: Wrappers
    facets: tuple[Facet, ...] = Field(min_length=1)
    """The first is the one that stands alone where a single vector is wanted."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> "PromptSet":
        if len(set(self.names)) < len(self.facets):
            raise ValueError(message("facets with the same name", ", ".join(self.names), "a name of its own for each"))
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the facets, in order."""
        return tuple(facet.name for facet in self.facets)

    @property
    def digest(self) -> str:
        """16 hex digits that change with any word of it."""
        return value_digest(self.model_dump())

    def wrapper(self, name: WrapperName) -> Wrapper:
        """Return a wrapper by its name."""
        return self.wrappers.short if name == "short" else self.wrappers.long

    def choose(self, names: Sequence[str] | None = None) -> tuple[Facet, ...]:
        """Pick facets by name.

        Args:
            names: In the order wanted; every facet when None.

        Returns:
            The facets.

        Raises:
            ConfigError: There is no facet of such a name, none is asked for, or one twice.
        """
        if names is None:
            return self.facets
        known = {facet.name: facet for facet in self.facets}
        for name in names:
            if name not in known:
                raise ConfigError(unknown(name, list(known), "facet"))
        if not names or len(set(names)) < len(names):
            raise ConfigError(message("facets to encode", ", ".join(names) or "none", "one or more, each once"))
        return tuple(known[name] for name in names)


def _facets(texts: dict[str, str]) -> tuple[Facet, ...]:
    return tuple(Facet(name=name, text=text) for name, text in texts.items())


_AFTER = '". Think it through one step at a time,'
_WRAPPERS = Wrappers(
    short=Wrapper(before='What a picture shows: "', after=_AFTER),
    long=Wrapper(before='In detail, what a picture shows: "', after=_AFTER),
)

BUILT_IN: dict[str, PromptSet] = {
    # entity (main and minor), interaction and scene, as in the paper
    "full": PromptSet(
        wrappers=_WRAPPERS,
        facets=_facets(
            {
                "overall": ' then sum up the meaning of all this in exactly one word:"',
                "main_category": ' then say in exactly one word what kind of thing the main object is:"',
                "main_attribute": ' then say in exactly one word the key trait or pattern of the main object:"',
                "minor_category": ' then say in exactly one word what kind of thing the second object is:"',
                "minor_attribute": ' then say in exactly one word the key trait or pattern of the second object:"',
                "action_event": ' then say in exactly one word which action or event is going on:"',
                "atmosphere": ' then say in exactly one word the mood of the whole scene:"',
            }
        ),
    ),
    # about half the tokens
    "brief": PromptSet(
        wrappers=Wrappers(
            short=Wrapper(before='Picture: "', after='". Think step by step,'),
            long=Wrapper(before='Picture in detail: "', after='". Think step by step,'),
        ),
        facets=_facets(
            {
                "overall": ' its meaning in one word:"',
                "main_category": ' its main object in one word:"',
                "main_attribute": ' trait of its main object in one word:"',
                "minor_category": ' its second object in one word:"',
                "minor_attribute": ' trait of its second object in one word:"',
                "action_event": ' what happens in one word:"',
                "atmosphere": ' its mood in one word:"',
            }
        ),
    ),
}
"""Prompt sets by name: "full" spells every question out, "brief" costs about half its tokens."""


def prompt_set(name: str) -> PromptSet:
    """Return a built-in prompt set.

    Args:
        name: A key of ``BUILT_IN``.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in BUILT_IN:
        raise ConfigError(unknown(name, list(BUILT_IN), "prompt set"))
    return BUILT_IN[name]
