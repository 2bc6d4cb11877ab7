"""The accepted training pairs of a data set: what the index and validation say, joined by key, and how to read one."""

import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps

from assets.errors import DataError, message
from assets.index import read_index

_COLUMNS = ["key", "shard", "image_offset", "image_size", "extension", "caption"]


@dataclass(frozen=True)
class Pairs:
    """Image-caption pairs in index order, image bytes left in the shards.

    Attributes:
        folder: The raw data set.
        shards: Shard paths relative to ``folder``.
        shard: Number of each pair's shard, [n].
        offset: Byte offset of each image in its shard, [n].
        size: Bytes of each image, [n].
        keys: Sample keys, [n].
        captions: Captions, [n].
        is_jpeg: Whether the image is a JPEG, [n].
    """

    folder: Path
    shards: tuple[str, ...]
    shard: NDArray[np.int32]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    keys: pa.StringArray
    captions: pa.StringArray
    is_jpeg: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.shard)


def load_pairs(raw: Path, valid: Path, split: str = "train") -> Pairs:
    """Join the index of a data set with the keys that validation accepted.

    Args:
        raw: Folder of ``ingest``.
        valid: Folder of ``validate``.
        split: The split to take.

    Returns:
        The pairs in index order.

    Raises:
        DataError: The split has no accepted pair, or validation accepted keys that the index does not have.
    """
    index = read_index(raw, _COLUMNS, split)
    accepted = pq.read_table(valid / "accepted.parquet", columns=["key"], filters=pc.field("split") == split).column(
        "key"
    )
    index = index.filter(pc.field("key").isin(accepted.combine_chunks()))
    if len(index) != len(accepted):
        raise DataError(
            message(
                f"{valid} does not belong to {raw}: accepted keys of split {split} found in the index",
                len(index),
                len(accepted),
                'rerun "dvc repro validate"',
            )
        )
    if not len(index):
        raise DataError(message(f"split {split} of {raw} has no accepted pair", fix="look at rejects.parquet"))
    encoded = index.column("shard").combine_chunks().dictionary_encode()
    return Pairs(
        folder=raw,
        shards=tuple(encoded.dictionary.to_pylist()),
        shard=encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32),
        offset=index.column("image_offset").to_numpy(),
        size=index.column("image_size").to_numpy(),
        keys=index.column("key").combine_chunks(),
        captions=index.column("caption").combine_chunks(),
        is_jpeg=np.isin(index.column("extension").to_numpy(), ["jpg", "jpeg"]),
    )


def decode(data: bytes, is_jpeg: bool) -> NDArray[np.uint8]:
    """Decode an image file to RGB.

    Args:
        data: The file.
        is_jpeg: Whether libjpeg-turbo may take it; colour models it does not take go through Pillow.

    Returns:
        Pixels, [height, width, 3].
    """
    if is_jpeg:
        try:
            return simplejpeg.decode_jpeg(data, colorspace="RGB")
        except ValueError:
            pass  # CMYK and damaged tails: Pillow decides
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


class PairReader:
    """Reads images by offset; keeps each shard's file open, one reader per process."""

    def __init__(self, pairs: Pairs) -> None:
        self._pairs = pairs
        self._files: dict[int, int] = {}

    def image(self, position: int) -> NDArray[np.uint8]:
        """Read and decode the image of one pair.

        Args:
            position: Place in ``pairs``.

        Returns:
            Pixels, [height, width, 3].

        Raises:
            DataError: The bytes there are no image; the shard has changed since validation.
        """
        pairs = self._pairs
        number = int(pairs.shard[position])
        path = pairs.folder / pairs.shards[number]
        if number not in self._files:
            self._files[number] = os.open(path, os.O_RDONLY)
        data = os.pread(self._files[number], int(pairs.size[position]), int(pairs.offset[position]))
        try:
            return decode(data, bool(pairs.is_jpeg[position]))
        except (OSError, ValueError) as error:
            raise DataError(
                message(
                    f"sample {pairs.keys[position]} in {path} cannot be decoded ({error})",
                    fix='the shard has changed since validation: rerun "dvc repro"',
                )
            ) from error
