"""Scenes: which objects, how large, where, and before what background. All of it from one random stream."""

from bisect import bisect
from dataclasses import dataclass
from functools import cache, reduce
from itertools import accumulate
from operator import and_
from random import Random
from typing import NamedTuple

import numpy as np

from assets.sources.emoji_scenes import backgrounds, sprites
from assets.sources.emoji_scenes.backgrounds import Background
from assets.sources.emoji_scenes.colours import COLOUR_NAMES
from assets.sources.emoji_scenes.concepts import Concept

MARGIN = 2
"""Pixels at the border that stay free of sprites, so that a near-duplicate may move by as much."""
_OVERLAP = 0.15
_TRIES = 12
_SHRINK = 0.86
_SMALLEST = 10
_NUM_OBJECTS = (0.3, 0.6, 0.85, 1.0)
_SIDES = ((0.50, 0.80), (0.36, 0.54), (0.32, 0.46), (0.29, 0.40))


class Box(NamedTuple):
    """A rectangle in pixels; the right and lower edges are outside, as in a slice."""

    x0: int
    y0: int
    x1: int
    y1: int


class Placed(NamedTuple):
    """One sprite in a scene.

    Attributes:
        rank: Index of its concept.
        side: Length of its longer side in pixels.
        box: Where it is.
    """

    rank: int
    side: int
    box: Box


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that is in one picture.

    Attributes:
        style: Art style of all its sprites.
        objects: From back to front.
        background: What is behind them.
        contrast: Share of the worst sprite that stands out from the background.
    """

    style: str
    objects: tuple[Placed, ...]
    background: Background
    contrast: float


class Composer:
    """Draws scenes over one list of concepts.

    Args:
        concepts: In rank order.
        held_out: Pairs that :meth:`ranks` never puts together, [C, C] bool.
        exponent: Of Zipf's law.
        repeat_share: Probability that the second object repeats the first.
        max_objects: Largest number of sprites.
        side: Width and height of the picture in pixels.
    """

    def __init__(
        self,
        concepts: tuple[Concept, ...],
        held_out: np.ndarray,
        exponent: float,
        repeat_share: float,
        max_objects: int,
        side: int,
    ) -> None:
        self.concepts = concepts
        self._held_out: list[frozenset[int]] = [frozenset(np.flatnonzero(row).tolist()) for row in held_out]
        self._cumulative = list(accumulate((rank + 1) ** -exponent for rank in range(len(concepts))))
        self._repeat_share = repeat_share
        self._max_objects = max_objects
        self._side = side

    def draw_rank(self, rng: Random) -> int:
        """Draw one concept by frequency."""
        return min(bisect(self._cumulative, rng.random() * self._cumulative[-1]), len(self.concepts) - 1)

    def ranks(self, rng: Random, least: int = 1) -> list[int]:
        """Draw the concepts of an ordinary scene; no two of them are a held-out pair.

        Args:
            rng: The scene's stream.
            least: Smallest number of different concepts.
        """
        count = min(bisect(_NUM_OBJECTS, rng.random()) + 1, self._max_objects)
        count = max(count, least)
        picked = [self.draw_rank(rng)]
        if count > 1 and least < 2 and rng.random() < self._repeat_share:
            picked.append(picked[0])
        for _ in range(4 * count):
            if len(picked) >= count:
                break
            rank = self.draw_rank(rng)
            if rank not in picked and not any(rank in self._held_out[other] for other in picked):
                picked.append(rank)
        return picked

    def held_out_ranks(self, rng: Random) -> list[int]:
        """Draw two concepts that make a held-out pair."""
        while True:
            first = self.draw_rank(rng)
            partners = sorted(self._held_out[first])
            if partners:
                weights = [1 / (rank + 1) for rank in partners]
                return rng.sample([first, rng.choices(partners, weights)[0]], 2)

    def compose(self, rng: Random, ranks: list[int], style: str) -> Scene:
        """Place concepts before a background they stand out from.

        Args:
            rng: The scene's stream.
            ranks: Concepts from back to front; one that finds no room is left out.
            style: Art style.
        """
        ids = [self.concepts[rank].concept_id for rank in ranks]
        art = [sprites.load(concept_id, style) for concept_id in ids]
        colour = _choose_colour(rng, art)
        low, high = _SIDES[len(ranks) - 1]
        placed: list[Placed] = []
        for rank, concept_id in zip(ranks, ids, strict=True):
            side = self._quantised((low + (high - low) * rng.random()) * self._side)
            spot = self._place(rng, concept_id, style, side, placed)
            if spot is not None:
                placed.append(Placed(rank, *spot))
        background = backgrounds.draw(rng, COLOUR_NAMES[colour])
        return Scene(style, tuple(placed), background, min(sprite.contrast[colour] for sprite in art))

    def _quantised(self, side: float) -> int:
        """Round a size to a few steps, so that resized sprites are found in the cache."""
        step = max(1, self._side // 32)
        return max(_SMALLEST, round(side / step) * step)

    def _place(
        self, rng: Random, concept_id: str, style: str, side: int, placed: list[Placed]
    ) -> tuple[int, Box] | None:
        """Find room for one sprite, shrinking it when there is none."""
        while True:
            shape = sprites.stamp(concept_id, style, side)
            room_x = self._side - 2 * MARGIN - shape.width
            room_y = self._side - 2 * MARGIN - shape.height
            for _ in range(_TRIES):
                x = MARGIN + int(rng.random() * (room_x + 1))
                y = MARGIN + int(rng.random() * (room_y + 1))
                box = Box(x, y, x + shape.width, y + shape.height)
                if all(overlap(box, other.box) <= _OVERLAP for other in placed):
                    return side, box
            smaller = self._quantised(side * _SHRINK)
            if smaller >= side:
                return None
            side = smaller


def _choose_colour(rng: Random, art: list[sprites.Sprite]) -> int:
    """Draw a background colour that all sprites stand out from; the best one when there is none."""
    fit = reduce(and_, (sprite.fit for sprite in art))
    if fit == 0:
        return max(range(len(COLOUR_NAMES)), key=lambda colour: min(sprite.contrast[colour] for sprite in art))
    choices = _colours_in(fit)
    return choices[int(rng.random() * len(choices))]


@cache
def _colours_in(bits: int) -> tuple[int, ...]:
    return tuple(colour for colour in range(len(COLOUR_NAMES)) if bits >> colour & 1)


def overlap(a: Box, b: Box) -> float:
    """Return the shared area of two boxes as a share of the smaller one."""
    ax0, ay0, ax1, ay1 = a
    bx0, by0, bx1, by1 = b
    if ax1 <= bx0 or bx1 <= ax0 or ay1 <= by0 or by1 <= ay0:
        return 0.0
    shared = (min(ax1, bx1) - max(ax0, bx0)) * (min(ay1, by1) - max(ay0, by0))
    return shared / min((ax1 - ax0) * (ay1 - ay0), (bx1 - bx0) * (by1 - by0))


def moved(scene: Scene, dx: int, dy: int) -> Scene:
    """Return the scene with every box moved; ``MARGIN`` keeps them inside for moves up to itself."""
    objects = tuple(
        placed._replace(box=Box(placed.box.x0 + dx, placed.box.y0 + dy, placed.box.x1 + dx, placed.box.y1 + dy))
        for placed in scene.objects
    )
    return Scene(scene.style, objects, scene.background, scene.contrast)
