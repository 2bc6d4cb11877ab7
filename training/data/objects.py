"""Where the objects of a training picture are, from the ground truth that some sources write into KEY.json."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assets.errors import DataError, message

MOST_OBJECTS = 16
"""Boxes kept per picture, the largest ones; a fixed number, so that the batch has a fixed shape."""


def object_boxes(metadata: Mapping[str, Any], where: str) -> NDArray[np.int64]:
    """Return the boxes of the objects of one picture.

    Args:
        metadata: What its KEY.json says.
        where: Which sample it is, for the message.

    Returns:
        (top, left, height, width) in pixels of the picture, [16, 4]; rows that stand for nothing are zero.

    Raises:
        DataError: The source wrote no boxes.
    """
    try:
        edges = [item["box"] for item in metadata["objects"]]
    except (KeyError, TypeError) as error:
        raise DataError(
            message(
                f"{where} has no object boxes, which masking kind oracle keeps and masking.watch counts",
                fix="use another masking without watch, or a source that writes them, such as emoji_scenes",
            )
        ) from error
    boxes = [(y0, x0, y1 - y0, x1 - x0) for x0, y0, x1, y1 in edges]
    boxes = sorted(boxes, key=lambda box: box[2] * box[3], reverse=True)[:MOST_OBJECTS]
    padded = np.zeros((MOST_OBJECTS, 4), dtype=np.int64)
    padded[: len(boxes)] = np.asarray(boxes, dtype=np.int64).reshape(-1, 4)
    return padded
