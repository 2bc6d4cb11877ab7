"""What pictures show according to their own KEY.json: names of objects, and the kind of noise that was planted."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from assets.concepts.concept_list import Concept, canonical, places
from assets.concepts.csr import Csr
from assets.concepts.thresholds import csr_of
from assets.errors import DataError, message
from assets.members import locate_shard, open_shard
from assets.metadata import parse_metadata
from assets.progress import Stage
from assets.shard_cache import ShardCache

COLUMNS = ("key", "shard", "metadata_offset", "metadata_size")
"""Of the index, which :func:`read_scenes` needs."""
_OBJECTS, _NAME, _NOISE = "objects", "name", "noise"


@dataclass(frozen=True, slots=True)
class Scenes:
    """What KEY.json says of n pairs.

    Attributes:
        objects: Names of what the picture shows; None where it says nothing of objects, [n].
        noise: Kind of noise that was planted, None for a true caption, [n].
        tells_noise: Whether any of them says whether its caption is true.
    """

    objects: list[list[str] | None]
    noise: list[str | None]
    tells_noise: bool


def object_names(metadata: Mapping[str, Any]) -> list[str] | None:
    """Return the names under ``objects``; None where that is no list.

    Args:
        metadata: The content of KEY.json.
    """
    listed = metadata.get(_OBJECTS)
    if not isinstance(listed, list):
        return None
    names = [item.get(_NAME) for item in listed if isinstance(item, Mapping)]
    return [name for name in names if isinstance(name, str)]


def read_scenes(raw: Path, rows: pa.Table, stage: Stage, cache: ShardCache | None = None) -> Scenes:
    """Read KEY.json of pairs.

    Args:
        raw: Folder of ``ingest``.
        rows: ``COLUMNS`` of its index, in index order.
        stage: For progress.
        cache: Knows the object store, for shards that lie in one.
    """
    objects: list[list[str] | None] = []
    noise: list[str | None] = []
    tells_noise = False
    codes = rows.column("shard").combine_chunks().dictionary_encode().indices.to_numpy()
    bounds = np.flatnonzero(np.diff(codes, prepend=-1, append=-1)).tolist()
    with stage.progress("read what pictures show", len(bounds) - 1, "shard") as progress:
        for start, stop in pairwise(bounds):
            for facts in _metadata(raw, rows.slice(start, stop - start), cache):
                objects.append(object_names(facts))
                kind = facts.get(_NOISE)
                noise.append(kind if isinstance(kind, str) else None)
                tells_noise |= _NOISE in facts
            progress.advance()
    return Scenes(objects, noise, tells_noise)


def truth_tags(objects: Sequence[Sequence[str] | None], concepts: Sequence[Concept], raw: Path) -> Csr:
    """Tag pictures with the concepts among the objects they are known to show.

    Args:
        objects: Names of each picture's objects, [n]; None, where nothing is known, leaves it without tags.
        concepts: In list order; other objects are left out.
        raw: Folder of ``ingest``, for the error.

    Raises:
        DataError: Nothing is known of any picture.
    """
    if all(names is None for names in objects):
        what = f"no KEY.json of the accepted pairs of {raw} lists objects with names"
        raise DataError(message(what, fix="set images to kind clip with embeddings, or to kind none"))
    known = places(concepts)
    found = [
        sorted({concept for name in names or () for concept in known.get(canonical(name), ())}) for names in objects
    ]
    rows = np.repeat(np.arange(len(found)), [len(tags) for tags in found])
    return csr_of(rows, np.array([concept for tags in found for concept in tags], dtype=np.int64), len(found))


def _metadata(raw: Path, rows: pa.Table, cache: ShardCache | None) -> Iterator[dict[str, Any]]:
    """Yield KEY.json of the pairs of one shard."""
    shard: str = rows.column("shard")[0].as_py()
    offsets, sizes = (rows.column(name).to_pylist() for name in COLUMNS[2:])
    with open_shard(locate_shard(raw, shard), cache) as stream:
        for offset, size in zip(offsets, sizes, strict=True):
            stream.seek(offset)
            yield parse_metadata(stream.read(size))
