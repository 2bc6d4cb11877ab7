"""Pictures of samples for the page: read from the shards by key, shrunk, as data addresses."""

import base64
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from assets.errors import DataError, message
from assets.index import read_index
from assets.members import read_member
from assets.shard_cache import cache_for
from training.data.decode import decode

_COLUMNS = ("key", "shard", "image_offset", "image_size")
_QUALITY = 82


def thumbnails(raw: Path, keys: Iterable[str], pixels: int, params: Path) -> dict[str, str]:
    """Read pictures by key.

    Args:
        raw: Folder of ``ingest``.
        keys: Sample keys; repeats are read once.
        pixels: Longest side; smaller pictures stay as they are.
        params: The params.yaml, which names the store when shards are URLs.

    Returns:
        Key -> ``data:image/jpeg;base64,...``.

    Raises:
        DataError: A key is not in the index.
    """
    wanted = sorted(set(keys))
    table = read_index(raw, _COLUMNS)
    mask = np.isin(table["key"].to_numpy(zero_copy_only=False), wanted)
    rows = table.filter(pa.array(mask)).to_pylist()
    cache = cache_for((row["shard"] for row in rows), params)
    found: dict[str, str] = {}
    for row in rows:
        image = read_member(raw, row["shard"], row["image_offset"], row["image_size"], cache)
        found[row["key"]] = _shrink(image, pixels)
    if lacking := [key for key in wanted if key not in found]:
        raise DataError(
            message(f"{raw}: {len(lacking)} example keys are not in the index", lacking[0], fix="evaluate anew")
        )
    return found


def _shrink(image: bytes, pixels: int) -> str:
    picture = Image.fromarray(decode(image))
    picture.thumbnail((pixels, pixels))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
