"""What is where in a picture, out of its KEY.json: objects with boxes, and masks of boxes as the model sees them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from evaluation.patchdis import Classes

UNLABELLED = -1
Size = tuple[int, int]


class SceneObject(NamedTuple):
    """One object of a picture.

    Attributes:
        name: English name, e.g. ``soccer ball``.
        box: Left, top, right and bottom edge in pixels of the picture as stored.
        colour: Its colour, empty if the source does not say.
    """

    name: str
    box: tuple[float, float, float, float]
    colour: str


def scene_objects(metadata: Mapping[str, Any]) -> list[SceneObject]:
    """Return the objects with name and box that KEY.json lists under ``objects``; none where it says nothing.

    Args:
        metadata: The content of KEY.json.
    """
    listed = metadata.get("objects")
    found: list[SceneObject] = []
    for item in cast("list[Any]", listed) if isinstance(listed, list) else []:
        told = cast("Mapping[str, Any]", item) if isinstance(item, Mapping) else {}
        name, box, colour = told.get("name"), told.get("box"), told.get("colour")
        edges = cast("list[Any]", box) if isinstance(box, list) else []
        if isinstance(name, str) and len(edges) == 4 and all(isinstance(edge, int | float) for edge in edges):
            x0, y0, x1, y1 = (float(edge) for edge in edges)
            found.append(SceneObject(name, (x0, y0, x1, y1), colour if isinstance(colour, str) else ""))
    return found


def shown_boxes(boxes: npt.ArrayLike, size: Size, shown: Size) -> npt.NDArray[np.float64]:
    """Move boxes to where a model's preprocessing puts them.

    The picture is scaled to cover the model's size, and cut to its middle: ``resize_mode: shortest``, as in all exports
    of training.

    Args:
        boxes: Left, top, right, bottom in pixels of the picture, [n, 4].
        size: Height and width of the picture.
        shown: Height and width of what the model gets.

    Returns:
        In pixels of what the model gets, [n, 4]; may lie outside.
    """
    scale = max(shown[0] / size[0], shown[1] / size[1])
    top, left = ((scale * whole - part) / 2 for whole, part in zip(size, shown, strict=True))
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * scale - [left, top, left, top]


def inside(boxes: npt.NDArray[np.float64], rows: int, columns: int, shown: Size) -> npt.NDArray[np.bool_]:
    """Say which cells of a grid over the picture have their centre in each box.

    Args:
        boxes: Left, top, right, bottom in pixels, [n, 4].
        rows: Of the grid; as many as pixels for a mask.
        columns: Of the grid.
        shown: Height and width of the picture.

    Returns:
        [n, rows, columns].
    """
    down = (np.arange(rows) + 0.5) * shown[0] / rows
    across = (np.arange(columns) + 0.5) * shown[1] / columns
    x0, y0, x1, y1 = (boxes[:, edge, None] for edge in range(4))
    return ((y0 <= down) & (down < y1))[:, :, None] & ((x0 <= across) & (across < x1))[:, None, :]


def box_mask(boxes: npt.NDArray[np.float64], labels: Sequence[int], shown: Size) -> Classes:
    """Paint boxes into one label per pixel; where boxes overlap, the smaller one is seen.

    Args:
        boxes: Left, top, right, bottom in pixels of the mask, [n, 4].
        labels: Class of each box, [n].
        shown: Height and width of the mask.

    Returns:
        [height, width], ``UNLABELLED`` outside of all boxes.
    """
    mask = np.full(shown, UNLABELLED, dtype=np.int32)
    covered = inside(boxes, *shown, shown)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for box in np.argsort(-areas, kind="stable"):
        mask[covered[box]] = labels[box]
    return mask
