"""Pictures of kept and dropped pairs, inside the page, with captions, scores and clusters."""

import io
from base64 import b64encode
from html import escape
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from assets.members import read_member
from assets.picture import Picture, PictureError
from assets.reduction.config import MEASURES
from assets.shard_cache import ShardCache

COLUMNS = ("shard", "image_offset", "image_size")
_PER_GROUP, _TILE, _QUALITY, _MOST_CHARS = 12, 96, 82, 160


def pick(rows: NDArray[np.int64], scores: NDArray[np.float32]) -> list[int]:
    """Choose pairs to show: evenly from the worst score to the best, or evenly in index order without scores.

    Args:
        rows: Of the pool, int64 [m].
        scores: Of the pool, float32 [n].
    """
    ordered = rows[np.argsort(scores[rows], kind="stable")]
    places = np.unique(np.linspace(0, len(rows) - 1, min(_PER_GROUP, len(rows))).astype(int))
    return ordered[places].tolist()


def figures(raw: Path, places: pa.Table, plan: pa.Table, captions: pa.StringArray, cache: ShardCache | None) -> str:
    """Return figures of some pairs.

    Args:
        raw: Folder of ``ingest``.
        places: ``COLUMNS`` of the index, one row per pair.
        plan: Their rows of plan.parquet.
        captions: Their own captions.
        cache: Knows the object store, for shards that lie in one.
    """
    parts: list[str] = []
    told = zip(places.to_pylist(), plan.to_pylist(), captions.to_pylist(), strict=True)
    for place, row, caption in told:
        content = read_member(raw, place["shard"], place["image_offset"], place["image_size"], cache)
        facts = [row["key"]]
        facts += [f"{name} {row[name]:.3f}" for name in MEASURES if np.isfinite(row[name])]
        facts += [f"cluster {row['cluster']}, place {row['order'] + 1}"] if row["cluster"] >= 0 else []
        facts += [f"similarity {row['similarity']:.3f}"] if np.isfinite(row["similarity"]) else []
        text = escape(caption[:_MOST_CHARS])
        if row["caption"] is not None:
            text += f"<br><b>now:</b> {escape(row['caption'][:_MOST_CHARS])}"
        parts.append(
            f"<figure>{_image(content)}<figcaption>{text}<small>{', '.join(facts)}</small></figcaption></figure>"
        )
    return f'<div class="panels">{"".join(parts)}</div>'


def _image(content: bytes) -> str:
    """Return a small picture, or a word in its place when it cannot be decoded."""
    try:
        opened = Picture(content)
        picture = Image.fromarray(opened.pixels(shrink=max(opened.width, opened.height) // _TILE))
    except PictureError:
        return '<div class="none">not readable</div>'
    picture.thumbnail((_TILE, _TILE))
    stream = io.BytesIO()
    picture.convert("RGB").save(stream, "JPEG", quality=_QUALITY)
    data = b64encode(stream.getvalue()).decode()
    return f'<img alt="" width="{picture.width}" height="{picture.height}" src="data:image/jpeg;base64,{data}">'
