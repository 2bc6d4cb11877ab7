"""Claims: what captions say about a scene, which planted noise can bend before the words are chosen."""

from dataclasses import dataclass

from assets.sources.emoji_scenes import sprites
from assets.sources.emoji_scenes.backgrounds import Background
from assets.sources.emoji_scenes.concepts import Concept
from assets.sources.emoji_scenes.scene import Box, Scene


@dataclass(frozen=True, slots=True)
class Claim:
    """One kind of thing in the picture.

    Attributes:
        concept: What it is.
        count: How many the caption says there are.
        colour: Name of its dominant colour.
        boxes: Where those that are there stand.
    """

    concept: Concept
    count: int
    colour: str
    boxes: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class Claims:
    """All that captions may speak of.

    Attributes:
        things: One entry per kind, in the order they were drawn.
        background: What is behind.
        style: Art style.
        side: Width and height of the picture in pixels.
    """

    things: tuple[Claim, ...]
    background: Background
    style: str
    side: int


def true_claims(scene: Scene, concepts: tuple[Concept, ...], side: int) -> Claims:
    """Return what is really there.

    Args:
        scene: The scene.
        concepts: In rank order.
        side: Width and height of the picture in pixels.
    """
    boxes: dict[int, list[Box]] = {}
    for placed in scene.objects:
        boxes.setdefault(placed.rank, []).append(placed.box)
    things = tuple(
        Claim(
            concepts[rank],
            len(where),
            sprites.load(concepts[rank].concept_id, scene.style).colour,
            tuple(where),
        )
        for rank, where in boxes.items()
    )
    return Claims(things, scene.background, scene.style, side)


def position(box: Box, side: int) -> str:
    """Name the ninth of the picture in which a box's centre lies, e.g. ``"top left"``.

    Args:
        box: The box.
        side: Width and height of the picture in pixels.
    """
    row = ("top", "middle", "bottom")[min(2, 3 * (box.y0 + box.y1) // (2 * side))]
    column = ("left", "centre", "right")[min(2, 3 * (box.x0 + box.x1) // (2 * side))]
    if row == "middle":
        return column
    return row if column == "centre" else f"{row} {column}"
