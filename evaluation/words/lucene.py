"""An index for Lucene: documents whose terms are words and whose term frequencies are impacts from 1 to 255.

Written as Anserini's JsonVectorCollection reads it; index it there with ``-impact -pretokenized``. Lucene wants whole
numbers, so weights are scaled so that the largest of the gallery is 255; the scale is kept beside the documents, and a
product of impacts times the scales of both sides is the score again, up to rounding.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assets.atomic import atomic_folder, write_json
from assets.code_stamp import code_digest
from assets.errors import DataError, message
from assets.manifest import read_manifest, version_of, write_manifest
from evaluation.words.index import KIND, load_index
from evaluation.words.word_list import read_words

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

LEVELS = 255
DOCUMENTS = "documents/part-00000.jsonl"
"""In a folder of its own, because every file beside it would be read as documents."""
SCALE = "scale.json"
_KIND = "lucene"


@dataclass(frozen=True, slots=True)
class Impacts:
    """Whole numbers instead of weights.

    Attributes:
        matrix: From 1 to 255 where there was a weight, int64 [n, V].
        largest: The weight that 255 stands for.
    """

    matrix: "csr_matrix"
    largest: float


def to_impacts(matrix: "csr_matrix") -> Impacts:
    """Scale weights so that the largest of all is 255, and round; what was kept stays, with 1 at least.

    Args:
        matrix: Cut vectors, [n, V].

    Raises:
        DataError: Nothing was kept.
    """
    given: Any = matrix
    if not len(given.data):
        raise DataError(message("the index is empty: no word of any picture was kept", fix="lower its cut"))
    largest = float(given.data.max())
    found: Any = given.astype(np.int64)
    found.data = np.maximum(np.rint(LEVELS * given.data.astype(np.float64) / largest), 1).astype(np.int64)
    return Impacts(found, largest)


def write_lucene(name: str, folder: Path, out: Path) -> None:
    """Write the documents of an index.

    Args:
        name: Of the index.
        folder: The index.
        out: The folder to publish: ``documents/part-00000.jsonl``, ``scale.json`` and ``words.json``.

    Raises:
        DataError: The index is missing, damaged or empty.
    """
    read_manifest(folder, KIND)
    index = load_index(folder)
    impacts = to_impacts(index.to_rows())
    with atomic_folder(out) as partial:
        path = partial / DOCUMENTS
        path.parent.mkdir()
        pictures = index.pictures.select(["key", "caption"]).to_pylist()
        with path.open("w", encoding="utf-8") as stream:
            for number, picture in enumerate(pictures):
                row = impacts.matrix[number]
                vector = dict(zip(map(str, row.indices.tolist()), row.data.tolist(), strict=True))
                document = {"id": picture["key"], "contents": picture["caption"], "vector": vector}
                stream.write(json.dumps(document, ensure_ascii=False) + "\n")
        read_words(folder).save(partial)
        write_json(partial / SCALE, {"largest_weight": impacts.largest, "levels": LEVELS})
        counts = {"documents": len(index), "postings": len(index.images)}
        inputs = {"index": version_of(folder)}
        write_manifest(partial, _KIND, name, {"index": name}, counts, inputs, code_digest("evaluation.words.lucene"))
