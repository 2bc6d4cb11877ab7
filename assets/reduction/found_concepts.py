"""What captions and pictures of a pool speak of, as the stage ``concepts`` found it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assets.concepts import misalignment
from assets.concepts.csr import Csr
from assets.concepts.folder import read_concepts, read_hits
from assets.errors import DataError, message
from assets.reduction.steps_concepts import Matches


@dataclass(frozen=True, slots=True)
class FoundConcepts:
    """Concepts of every pair of a pool.

    Attributes:
        names: Of all K concepts.
        text: Concepts of captions, n rows.
        image: Concepts of pictures, n rows; None where nobody looked.
    """

    names: tuple[str, ...]
    text: Csr
    image: Csr | None


def read_found(folder: Path, keys: pa.StringArray) -> FoundConcepts:
    """Read the concepts of a pool.

    Args:
        folder: Folder ``data/concepts/C``, of the same version of the data.
        keys: Of the pool, [n].

    Raises:
        DataError: It is not readable, or of other pairs.
    """
    hits = read_hits(folder)
    if not hits.keys.equals(keys):
        what = f"{folder} has other pairs than the pool"
        raise DataError(message(what, f"{len(hits.keys)} pairs", f"{len(keys)}", 'rerun "dvc repro concepts"'))
    return FoundConcepts(read_concepts(folder).names, hits.text, hits.image)


def matches(found: FoundConcepts, rows: NDArray[np.int64]) -> Matches:
    """Return the concepts of some pairs: those of caption and picture both, or of captions where nobody looked.

    Args:
        found: Of the pool.
        rows: Which pairs, [m].

    Returns:
        Names are sorted, as entries of a step are.
    """
    both = (found.text if found.image is None else found.text.intersection(found.image)).take(rows)
    order = sorted(range(len(found.names)), key=lambda concept: found.names[concept])
    places = np.empty(len(order), dtype=np.int32)
    places[order] = np.arange(len(order), dtype=np.int32)
    pairs = np.repeat(np.arange(len(rows)), np.diff(both.pointer))
    return Matches(tuple(found.names[concept] for concept in order), places[both.concepts], pairs)


def disjoint(found: FoundConcepts, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell pairs apart whose caption and picture both speak of concepts, but of none in common.

    Args:
        found: Of the pool; pictures were looked at.
        rows: Which pairs, [m].

    Returns:
        [m].
    """
    assert found.image is not None
    return misalignment.disjoint(found.text.take(rows), found.image.take(rows))
