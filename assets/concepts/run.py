"""Stage ``concepts``: count the concepts of all accepted training pairs of a data set, in captions and in pictures.

It takes seconds to minutes and is published at once; a killed run begins anew. The folder depends on inputs, entry and
code alone.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assets.atomic import atomic_folder, write_json
from assets.code_stamp import code_digest
from assets.concepts.clip_tags import ImageVectors, clip_tags
from assets.concepts.concept_list import Concept, ConceptList, list_concepts
from assets.concepts.config import ClipImages, ConceptsConfig, TruthImages
from assets.concepts.csr import Csr
from assets.concepts.folder import KIND, SUMMARY, ConceptTable, Hits, count_concepts, write_concepts
from assets.concepts.misalignment import disjoint, misalignment
from assets.concepts.phrase import PhraseSearch
from assets.concepts.reference import ReferenceSearch
from assets.concepts.tail import tail_facts
from assets.concepts.truth_tags import COLUMNS, read_scenes, truth_tags
from assets.errors import DataError, message
from assets.index import accepted_rows
from assets.manifest import file_digest, read_manifest, version_of, write_manifest
from assets.progress import Stage
from assets.reduction.plan import refuse_other_versions
from assets.shard_cache import ShardCache
from assets.sidecar import Sidecar

SPLIT = "train"
UNRELATED = ("mismatch",)
"""Kinds of planted noise whose captions are of another picture, which is what misalignment should find."""
_TAIL = 20
_TRIED = 16


class Search(Protocol):
    """Finds concepts in captions."""

    def find(self, captions: Sequence[str]) -> Csr:
        """Return the concepts of n captions, n rows."""
        ...


_SEARCHES: dict[str, Callable[[Sequence[Concept]], Search]] = {"phrase": PhraseSearch, "reference": ReferenceSearch}


@dataclass(frozen=True, slots=True)
class Folders:
    """Folders of the stage.

    Attributes:
        raw: From ``ingest``.
        valid: From ``validate``.
        embeddings: From ``embed``; None where the entry names none.
        out: What is published.
    """

    raw: Path
    valid: Path
    embeddings: Path | None
    out: Path


def concepts(name: str, config: ConceptsConfig, folders: Folders, cache: ShardCache | None = None) -> None:
    """Count the concepts of a data set.

    Args:
        name: Of the entry in params.yaml.
        config: The entry.
        folders: Where things are and go.
        cache: Knows the object store, for shards that lie in one.

    Raises:
        ConfigError: The list names no concepts, or captions cannot be searched by the entry's policy.
        DataError: An input is missing, unfinished, or of another version of the data; some pairs have no embedding; no
            caption names a concept; or no KEY.json says what its picture shows, and the entry asks for it.
    """
    with Stage(f"concepts@{name}") as stage:
        inputs = _versions(config, folders)
        code = code_digest("assets.concepts.run")
        listed = list_concepts(config.list_file, folders.raw)
        for note in listed.notes:
            stage.log.warning("%s: %s", stage.name, note)
        rows = accepted_rows(folders.raw, folders.valid, [*COLUMNS, "caption"], SPLIT)
        keys: pa.StringArray = rows.column("key").combine_chunks()
        vectors = _vectors(config, folders, keys)
        stage.log.info("%s: %d concepts, %d pairs", stage.name, len(listed.concepts), len(keys))
        text = _search(listed.concepts, config, rows, stage)
        if not len(text.concepts):
            what = f"no caption of {len(keys)} names any of {len(listed.concepts)} concepts"
            raise DataError(message(what, fix="list concepts in the language of the captions of the index"))
        image, noise = _image_side(config, folders, listed.concepts, rows, text, vectors, (stage, cache))
        hits = Hits(keys, text, image)
        table = count_concepts(listed.concepts, text, image)
        summary = summarise(config, listed, table, hits, noise)
        counts = {"concepts": summary["concepts"], "pairs": summary["pairs"], "with_text": summary["with_text"]}
        with atomic_folder(folders.out) as partial:
            write_concepts(partial, table, hits)
            write_json(partial / SUMMARY, summary)
            write_manifest(partial, KIND, name, {"stage": config.model_dump(mode="json")}, counts, inputs, code)
        stage.send(counts, force=True)


def _versions(config: ConceptsConfig, folders: Folders) -> dict[str, str]:
    """Return the version of every input, after checking that all are of the same data."""
    read_manifest(folders.raw, "raw")
    read_manifest(folders.valid, "valid")
    found = {"raw": version_of(folders.raw), "valid": version_of(folders.valid)}
    if isinstance(config.images, ClipImages) and folders.embeddings is not None:
        refuse_other_versions(folders.embeddings, read_manifest(folders.embeddings, "sidecar")["inputs"], dict(found))
        found["embeddings"] = version_of(folders.embeddings)
    if config.list_file is not None:
        if not config.list_file.is_file():
            raise DataError(message(f"{config.list_file} does not exist", fix="mend the entry's list"))
        found["list"] = file_digest(config.list_file)[:16]
    return found


def _vectors(config: ConceptsConfig, folders: Folders, keys: pa.StringArray) -> ImageVectors | None:
    if not isinstance(config.images, ClipImages):
        return None
    assert folders.embeddings is not None, "the config asks for embeddings"
    sidecar = Sidecar(folders.embeddings)
    return ImageVectors(sidecar, sidecar.join(keys))


def _search(concepts: Sequence[Concept], config: ConceptsConfig, rows: pa.Table, stage: Stage) -> Csr:
    """Find concepts in the captions, shard by shard."""
    search = _SEARCHES[config.policy](concepts)
    captions = rows.column("caption")
    codes = rows.column("shard").combine_chunks().dictionary_encode().indices.to_numpy()
    bounds = np.flatnonzero(np.diff(codes, prepend=-1, append=-1)).tolist()
    if isinstance(search, ReferenceSearch):
        bounds = [0, len(captions)]  # its index has to hold all captions before it is asked
    parts: list[Csr] = []
    with stage.progress("search captions", len(bounds) - 1, "shard") as progress:
        for start, stop in pairwise(bounds):
            parts.append(search.find(captions.slice(start, stop - start).to_pylist()))
            progress.advance()
    ends = np.cumsum([0, *(len(part.concepts) for part in parts)])
    pointer = [part.pointer[1:] + end for part, end in zip(parts, ends.tolist(), strict=False)]
    first = np.zeros(1, dtype=np.int64)
    return Csr(np.concatenate([first, *pointer]), np.concatenate([part.concepts for part in parts]))


def _image_side(
    config: ConceptsConfig,
    folders: Folders,
    concepts: Sequence[Concept],
    rows: pa.Table,
    text: Csr,
    vectors: ImageVectors | None,
    means: tuple[Stage, ShardCache | None],
) -> tuple[Csr | None, list[str | None] | None]:
    """Return concepts of pictures, and the planted noise where KEY.json tells of it."""
    if isinstance(config.images, TruthImages):
        scenes = read_scenes(folders.raw, rows, *means)
        return truth_tags(scenes.objects, concepts, folders.raw), scenes.noise if scenes.tells_noise else None
    if vectors is None or not isinstance(config.images, ClipImages):
        return None, None
    image = clip_tags(vectors, text, len(concepts), config.images.precision, means[0])
    if not read_scenes(folders.raw, rows.slice(0, _TRIED), *means).tells_noise:
        return image, None
    return image, read_scenes(folders.raw, rows, *means).noise


def summarise(
    config: ConceptsConfig, listed: ConceptList, table: ConceptTable, hits: Hits, noise: Sequence[str | None] | None
) -> dict[str, Any]:
    """Return the content of summary.json.

    Args:
        config: The entry of params.yaml.
        listed: Its concepts.
        table: Their counts.
        hits: What was counted.
        noise: Planted kind of noise of each pair, None for a true caption; None where nothing is known of that.
    """
    image = hits.image
    sides = {"text": table.text, **({} if image is None else {"image": table.image, "joint": table.joint})}
    order = np.argsort(table.ranked, kind="stable")[:_TAIL].tolist()
    return {
        "concepts": len(table.names),
        "pairs": len(hits.keys),
        "policy": config.policy,
        "image_side": config.images.kind,
        "with_text": int((np.diff(hits.text.pointer) > 0).sum()),
        "with_image": None if image is None else int((np.diff(image.pointer) > 0).sum()),
        "misalignment": None if image is None else misalignment(hits.text, image).facts(),
        "tail": {side: tail_facts(counts) for side, counts in sides.items()},
        "tail_concepts": [table.names[place] for place in order],
        "noise": None if image is None or noise is None else judge_flag(disjoint(hits.text, image), noise),
        "notes": list(listed.notes),
    }


def judge_flag(flagged: NDArray[np.bool_], noise: Sequence[str | None]) -> dict[str, Any]:
    """Compare the flag of misaligned pairs with the noise that was planted.

    Args:
        flagged: bool [n].
        noise: Planted kind of each pair, None for a true caption, [n].

    Returns:
        ``precision`` and ``recall`` for the kinds whose captions are of another picture, None where they are not
        defined; ``flagged``; and pairs and flagged ones ``by_kind``, true captions under ``none``.
    """
    pairs = Counter(noise)
    found = Counter(kind for kind, flag in zip(noise, flagged.tolist(), strict=True) if flag)
    right, all_found = sum(found[kind] for kind in UNRELATED), int(flagged.sum())
    planted = sum(pairs[kind] for kind in UNRELATED)
    kinds = sorted(pairs, key=lambda kind: kind or "")
    return {
        "kinds": list(UNRELATED),
        "flagged": all_found,
        "precision": right / all_found if all_found else None,
        "recall": right / planted if planted else None,
        "by_kind": {kind or "none": {"pairs": pairs[kind], "flagged": found[kind]} for kind in kinds},
    }
