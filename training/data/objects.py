"""Where the objects of a training picture are, from the ground truth that some sources write into KEY.json."""

import json

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from assets.errors import DataError, message
from assets.index import read_index
from training.data.pairs import Pairs
from training.data.shard_files import ShardFiles

MOST_OBJECTS = 16
"""Boxes kept per picture, the largest ones; a fixed number, so that the batch has a fixed shape."""


class ObjectBoxes:
    """Reads boxes by position; one reader per process."""

    def __init__(self, pairs: Pairs, split: str = "train") -> None:
        """Look up where the ground truth lies; no shard is opened yet.

        Args:
            pairs: The pairs.
            split: Their split.
        """
        index = read_index(pairs.folder, ["key", "metadata_offset", "metadata_size"], split)
        places = pc.index_in(pairs.keys, index.column("key").combine_chunks())  # pyright: ignore[reportAttributeAccessIssue]
        rows = places.to_numpy(zero_copy_only=False)
        self._offset = index.column("metadata_offset").to_numpy()[rows]
        self._size = index.column("metadata_size").to_numpy()[rows]
        self._pairs = pairs
        at_least = pairs.shard_bytes.tolist() if pairs.stored else []
        self._files = ShardFiles(pairs.folder, pairs.shards, at_least, pairs.cache)

    def read(self, position: int) -> NDArray[np.int64]:
        """Return the boxes of one picture.

        Args:
            position: Place in the pairs.

        Returns:
            (top, left, height, width) in pixels of the picture, [16, 4]; rows that stand for nothing are zero.

        Raises:
            DataError: The source wrote no boxes.
        """
        shard = int(self._pairs.shard[position])
        content = self._files.read(shard, int(self._offset[position]), int(self._size[position]))
        try:
            edges = [item["box"] for item in json.loads(content)["objects"]]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                message(
                    f"sample {self._pairs.keys[position]} in {self._files.name(shard)} has no object boxes,"
                    " which masking kind oracle keeps and masking.watch counts",
                    fix="use another masking without watch, or a source that writes them, such as emoji_scenes",
                )
            ) from error
        boxes = [(y0, x0, y1 - y0, x1 - x0) for x0, y0, x1, y1 in edges]
        boxes = sorted(boxes, key=lambda box: box[2] * box[3], reverse=True)[:MOST_OBJECTS]
        padded = np.zeros((MOST_OBJECTS, 4), dtype=np.int64)
        padded[: len(boxes)] = np.asarray(boxes, dtype=np.int64).reshape(-1, 4)
        return padded
