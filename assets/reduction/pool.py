"""The pool of a policy: accepted training pairs with what is known of them, joined by key, and all refusals."""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported, out of a type checker's sight

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from assets.errors import ConfigError, DataError, message
from assets.index import accepted_rows
from assets.manifest import read_manifest, version_of
from assets.reduction.budget import resolve, share_of
from assets.reduction.captions import FILE as CAPTIONS
from assets.reduction.captions import Generated, read_generated
from assets.reduction.config import (
    MEASURES,
    By,
    ConceptAgreementStep,
    PolicyConfig,
    SemDedupStep,
    Step,
    TldrStep,
    by,
)
from assets.reduction.found_concepts import FoundConcepts, read_found
from assets.reduction.hash_order import key_hashes, ranks
from assets.reduction.plan import refuse_other_versions
from assets.sidecar import Sidecar

SPLIT = "train"
SCORES = "scores.parquet"
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Sources:
    """Folders that a pool is read from.

    Attributes:
        raw: From ``ingest``.
        valid: From ``validate``.
        embeddings: From ``embed``, or None.
        captioned: From ``captioner``, or None.
        concepts: From ``concepts``, or None.
    """

    raw: Path
    valid: Path
    embeddings: Path | None
    captioned: Path | None
    concepts: Path | None = None

    def versions(self) -> dict[str, str]:
        """Return the version of every folder, after checking that all are made from the same data.

        Raises:
            DataError: A folder is missing or unfinished, or was made from another version of the data set.
        """
        found = {"raw": version_of(self.raw), "valid": version_of(self.valid)}
        read_manifest(self.raw, "raw")
        read_manifest(self.valid, "valid")
        data = dict(found)
        others = {"embeddings": self.embeddings, "captioned": self.captioned, "concepts": self.concepts}
        for name, folder in others.items():
            if folder is not None:
                refuse_other_versions(folder, read_manifest(folder)["inputs"], data)
                found[name] = version_of(folder)
        return found


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Embeddings of a pool.

    Attributes:
        sidecar: Rows float16 [2, D], image first.
        positions: Of each pair in it, int64 [n].
    """

    sidecar: Sidecar
    positions: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Codes:
    """A captioner's codes.

    Attributes:
        sidecar: Rows uint16 [L].
        positions: Of each pair in it, int64 [n].
        codebook: Vectors, float32 [K, d].
    """

    sidecar: Sidecar
    positions: NDArray[np.int64]
    codebook: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pool:
    """Accepted training pairs in index order.

    Attributes:
        keys: [n].
        captions: Their own captions, [n].
        hashes: By the policy's seed, uint64 [n].
        ranks: Places in hash order, int64 [n].
        fit: Measure -> how well picture and caption fit, float32 [n]: ``score`` is NaN where the policy has no
            embeddings, ``likelihood`` where no step asks for it.
        embeddings: None where the policy has none.
        codes: None where the policy has no captioner.
        generated: Generated captions; None where the policy has no captioner.
        concepts: What captions and pictures speak of; None where the policy has no such entry.
    """

    keys: pa.StringArray
    captions: pa.StringArray
    hashes: NDArray[np.uint64]
    ranks: NDArray[np.int64]
    fit: dict[By, NDArray[np.float32]]
    embeddings: Embeddings | None
    codes: Codes | None
    generated: Generated | None
    concepts: FoundConcepts | None = None

    def __len__(self) -> int:
        return len(self.keys)


def read_pool(config: PolicyConfig, sources: Sources) -> Pool:
    """Read the pool of a policy; whatever does not fit is refused here, before any work.

    Args:
        config: The policy.
        sources: Its folders, of one version of the data.

    Raises:
        DataError: Keys are not unique, or some pairs have no score, no embedding or no codes.
        ConfigError: A step asks for more pairs, or for more clusters, than the pool has.
    """
    rows = accepted_rows(sources.raw, sources.valid, ["key", "caption"], SPLIT)
    keys: pa.StringArray = rows.column("key").combine_chunks()
    hashes = key_hashes(keys, config.seed)
    order = ranks(keys, hashes)
    check_amounts(config.steps, len(keys))
    unknown = np.full(len(keys), np.nan, dtype=np.float32)
    fit: dict[By, NDArray[np.float32]] = dict.fromkeys(MEASURES, unknown)
    embeddings = codes = generated = None
    if sources.embeddings is not None:
        fit["score"] = read_numbers(sources.embeddings / SCORES, "score", keys, "embed")
        sidecar = Sidecar(sources.embeddings)
        embeddings = Embeddings(sidecar, sidecar.join(keys))
    if sources.captioned is not None:
        codes = _read_codes(sources.captioned, keys)
        generated = read_generated(sources.captioned, keys, config.caption_rule)
        if any(by(step) == "likelihood" for step in config.steps):
            fit["likelihood"] = read_numbers(sources.captioned / CAPTIONS, "likelihood", keys, "captioner")
    captions: pa.StringArray = rows.column("caption").combine_chunks()
    concepts = None if sources.concepts is None else read_found(sources.concepts, keys)
    if (
        concepts is not None
        and concepts.image is None
        and any(isinstance(s, ConceptAgreementStep) for s in config.steps)
    ):
        what = f"{sources.concepts} looked at no pictures, so nothing can be said of their agreement with captions"
        raise ConfigError(message(what, fix="set concepts.NAME.images to truth or clip"))
    return Pool(keys, captions, hashes, order, fit, embeddings, codes, generated, concepts)


def read_numbers(path: Path, column: str, keys: pa.StringArray, stage: str) -> NDArray[np.float32]:
    """Read a number of each of some pairs.

    Args:
        path: The table, with a column ``key``.
        column: Its column of numbers.
        keys: [n].
        stage: Which stage makes it, for the error.

    Returns:
        float32 [n], all finite.

    Raises:
        DataError: The table is missing, names keys twice, or lacks or has no finite number of some pairs.
    """
    fix = f'rerun "dvc repro {stage}"'
    try:
        table: pa.Table = pq.read_table(path, columns=["key", column])
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(message(f"{path} is not readable as parquet ({error})", fix=fix)) from error
    known = table.column("key").combine_chunks()
    if (distinct := pc.count_distinct(known).as_py()) != len(known):
        raise DataError(message(f"{path} names keys twice", len(known), f"{distinct} distinct ones", fix))
    found = pc.index_in(keys, value_set=known)
    if found.null_count:
        missing = keys.filter(pc.is_null(found))
        what = f"{path} has no {column} for {len(missing)} of {len(keys)} accepted pairs ({_shown(missing)})"
        raise DataError(message(what, fix=fix))
    scores: NDArray[np.float32] = (
        table.column(column).combine_chunks().cast(pa.float32()).take(found).to_numpy(zero_copy_only=False)
    )
    if not (finite := np.isfinite(scores)).all():
        bad = keys.filter(pa.array(~finite))
        raise DataError(message(f"{path}: {len(bad)} values of {column} are not finite ({_shown(bad)})", fix=fix))
    return scores


def _read_codes(folder: Path, keys: pa.StringArray) -> Codes:
    sidecar = Sidecar(folder / "codes")
    positions = sidecar.join(keys)
    path = folder / "codebook.npy"
    if not path.is_file():
        raise DataError(message(f"{path} is missing", fix='rerun "dvc repro captioner"'))
    codebook = np.load(path, allow_pickle=False)
    if codebook.ndim != 2:
        raise DataError(message(f"{path} is no codebook", list(codebook.shape), "[K, d]"))
    return Codes(sidecar, positions, codebook.astype(np.float32))


def _shown(keys: pa.StringArray) -> str:
    return ", ".join(keys.slice(0, _SHOWN).to_pylist()) + (", ..." if len(keys) > _SHOWN else "")


def check_amounts(steps: tuple[Any, ...], pool: int) -> None:
    """Refuse a chain that asks for more than there can be when it is its turn.

    Args:
        steps: The chain.
        pool: Pairs that the first step sees.

    Raises:
        ConfigError: With both numbers.
    """
    most = pool
    for number, step in enumerate(steps):
        most = check_step(step, f"steps.{number} ({step.kind})", most)


def check_step(step: Step, where: str, pairs: int) -> int:
    """Refuse a step that asks for more than it can have.

    Args:
        step: The step.
        where: Its place, for the error.
        pairs: The most pairs it can see.

    Returns:
        The most pairs that it can keep.

    Raises:
        ConfigError: Its budget, or its number of clusters, is larger than ``pairs``.
    """
    keep = getattr(step, "keep", None)
    if isinstance(keep, int) and keep > pairs:
        raise ConfigError(message(f"{where}: the budget is larger than its pool", keep, f"at most {pairs} pairs"))
    if isinstance(step, TldrStep | SemDedupStep):
        seen = (
            share_of(Fraction(1, 2), pairs)
            if isinstance(step, TldrStep) and step.rule == "half_then_stratify"
            else pairs
        )
        if isinstance(keep, int) and keep > seen:
            what = f"{where}: the budget is larger than the better half of its pool"
            raise ConfigError(
                message(what, keep, f"at most {seen} of {pairs} pairs", "take rule budget with order score")
            )
        if step.clusters > pairs:
            what = f"{where}: the pool is smaller than the number of clusters"
            raise ConfigError(message(what, step.clusters, f"at most {pairs}, one per pair", "lower clusters"))
    return pairs if keep is None else resolve(keep, pairs)
