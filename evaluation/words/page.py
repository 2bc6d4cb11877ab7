"""An answer as a page of its own: pictures, the words that made each a hit, and the patches that say these words."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from PIL import Image

from assets.errors import DataError, message
from assets.index import read_index
from assets.members import read_member
from assets.shard_cache import cache_for
from evaluation.page_templates import page_environment
from evaluation.words.answer import Answer, HitReport, Part, shown_parts
from evaluation.words.patches import heat_address, jpeg_address, seen_pixels, word_maps
from evaluation.words.word_list import WordList
from training.data.decode import decode

PIXELS = 224
"""Longest side of a picture on the page."""
LOCATED = 3
"""Words of a hit whose patches are shown."""
_COLUMNS = ("key", "shard", "image_offset", "image_size")
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Sources:
    """Where pictures and patches come from.

    Attributes:
        raw: Folder of ``ingest``.
        model: The model folder.
        params: The params.yaml, which names the store when shards are URLs.
    """

    raw: Path
    model: Path
    params: Path


def render_page(found: Answer, words: WordList, sources: Sources) -> str:
    """Render an answer with the model of its index.

    Args:
        found: The answer.
        words: Those of the index.
        sources: Pictures and model.

    Returns:
        HTML with styles and pictures inside.

    Raises:
        DataError: A picture is not there, or the model does not load.
    """
    from training.models.frozen_export import load_export

    export = load_export(sources.model)
    pictures = read_pictures(sources.raw, [hit.key for hit in found.hits], sources.params)
    return page(found, words, pictures, export.model, export.preprocess)


def page(
    found: Answer, words: WordList, pictures: dict[str, Pixels], model: Any, preprocess: Callable[[Any], torch.Tensor]
) -> str:
    """Render an answer.

    Args:
        found: The answer.
        words: Those of the index.
        pictures: Key -> RGB, [height, width, 3], of every hit.
        model: Has ``encode_patches`` and ``visual.grid_size``, see :func:`evaluation.words.patches.word_maps`.
        preprocess: Picture -> tensor [3, height, width].

    Returns:
        HTML with styles and pictures inside; the same answer gives the same text.
    """
    environment = page_environment({}, "evaluation.words")
    hits = [
        {
            "hit": hit,
            "picture": jpeg_address(pictures[hit.key], PIXELS),
            "bars": _bars(hit.parts),
            **_located(hit, words, pictures[hit.key], model, preprocess),
        }
        for hit in found.hits
    ]
    return environment.get_template("search.html.j2").render(found=found, query=_bars(found.query), hits=hits)


def _bars(parts: tuple[Part, ...]) -> list[dict[str, Any]]:
    """Return the first words as bars, as long as the largest of them allows, and the rest, which may be cut off."""
    first, rest = shown_parts(parts)
    shown = [(*part, False) for part in first] + ([(*rest, True)] if rest else [])
    largest = max(weight for _, weight in first)
    return [
        {"word": word, "weight": weight, "percent": round(min(100 * weight / largest, 100), 2), "rest": is_rest}
        for word, weight, is_rest in shown
    ]


def _located(
    hit: HitReport, words: WordList, pixels: Pixels, model: Any, preprocess: Callable[[Any], torch.Tensor]
) -> dict[str, Any]:
    """Show the patches of the words that contributed most, on the picture as the model saw it."""
    image = preprocess(Image.fromarray(pixels))  # [3, height, width]
    first = [word for word, _ in hit.parts[:LOCATED]]
    maps = word_maps(model, image, [words.number(word) for word in first])
    rows, columns = model.visual.grid_size
    places = [
        {"word": word, "heat": heat_address(one.heat), "row": one.row, "column": one.column}
        for word, one in zip(first, maps, strict=True)
    ]
    return {"seen": jpeg_address(seen_pixels(image, preprocess), PIXELS), "rows": rows, "columns": columns} | {
        "places": places
    }


def read_pictures(raw: Path, keys: Iterable[str], params: Path) -> dict[str, Pixels]:
    """Read and decode pictures by key.

    Args:
        raw: Folder of ``ingest``.
        keys: Sample keys.
        params: The params.yaml, which names the store when shards are URLs.

    Returns:
        Key -> RGB, [height, width, 3].

    Raises:
        DataError: There is no data set, or it lacks a key.
    """
    wanted = sorted(set(keys))
    table = read_index(raw, _COLUMNS)
    rows = table.filter(pa.array(np.isin(table["key"].to_numpy(zero_copy_only=False), wanted))).to_pylist()
    cache = cache_for((row["shard"] for row in rows), params)
    found = {
        row["key"]: decode(read_member(raw, row["shard"], row["image_offset"], row["image_size"], cache))
        for row in rows
    }
    if lacking := [key for key in wanted if key not in found]:
        what = f"{raw} lacks {len(lacking)} pictures of the index"
        raise DataError(message(what, lacking[0], fix="make the index anew"))
    return found
