"""The steps of a chain: each looks at the pairs that the step before kept, and says which of them stay and why.

Results of steps, and clusterings, are kept in the work folder as they are finished, so that a killed run goes on with
the step it was in. A clustering is named after what it depends on, so that policies share it.
"""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assets.atomic import atomic_file, atomic_folder, write_json
from assets.code_stamp import code_digest
from assets.manifest import value_digest
from assets.progress import Stage
from assets.reduction import clip_score, concept_balance, near_duplicates, random_subset, semdedup, tldr
from assets.reduction.budget import resolve
from assets.reduction.clusters import ClusteringConfig, Clusters, cluster
from assets.reduction.config import (
    ClipScoreStep,
    ConceptAgreementStep,
    ConceptBalanceStep,
    Features,
    LikelihoodStep,
    NearDuplicatesStep,
    RandomStep,
    SemDedupStep,
    Step,
    TldrStep,
    by,
)
from assets.reduction.features import Watched, feature_table
from assets.reduction.found_concepts import disjoint, matches
from assets.reduction.hash_order import key_hashes
from assets.reduction.pool import Pool, check_step
from assets.reduction.selection import Selection, selection
from assets.reduction.steps_concepts import find_concepts
from assets.row_files import write_array
from assets.shard_cache import ShardCache

NO_CLUSTER = -1
_MOST_WHITENED = 1_000_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step decided about the m pairs it saw.

    Attributes:
        selection: Kept or dropped, and why.
        facts: What summary.json says beside the numbers of pairs, such as a threshold.
        clusters: int32 [m]; None where it does not cluster.
        order: Place of each pair in its cluster, int32 [m]; None where it does not cluster.
        similarity: To the closest earlier pair of its cluster, float32 [m]; None but for SemDeDup.
        seconds: What it took, clustering included.
    """

    selection: Selection
    facts: dict[str, Any]
    clusters: NDArray[np.int32] | None = None
    order: NDArray[np.int32] | None = None
    similarity: NDArray[np.float32] | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Workshop:
    """What steps work with.

    Attributes:
        pool: The pool.
        names: Names of the data set's classes (:func:`assets.reduction.steps_concepts.class_names`).
        versions: Name of an input -> its version.
        seed: Of the policy.
        folder: Where clusterings, and what was measured of pictures, are kept.
        stage: For progress.
        raw: From ``ingest``.
        workers: Processes that decode pictures.
        cache: Knows the object store, for shards that lie in one.
    """

    pool: Pool
    names: list[str]
    versions: Mapping[str, str]
    seed: int
    folder: Path
    stage: Stage
    raw: Path
    workers: int = 0
    cache: ShardCache | None = None


def carry_out(step: Step, number: int, rows: NDArray[np.int64], shop: Workshop, kept: Path) -> Outcome:
    """Do a step, or read what it decided when it was done before.

    Args:
        step: The step.
        number: Its number in the chain, from 1.
        rows: The pairs that it sees, rows of the pool, ascending, int64 [m].
        shop: What it works with.
        kept: File of its result.

    Raises:
        ConfigError: It asks for more than there is.
    """
    if kept.is_file():
        return _read(kept)
    check_step(step, f"steps.{number - 1} ({step.kind})", len(rows))
    begin = time.monotonic()
    if isinstance(step, RandomStep):
        stays = random_subset.keep(shop.pool.ranks[rows], resolve(step.keep, len(rows)))
        outcome = Outcome(selection((stays, "later in hash order")), {})
    elif isinstance(step, ClipScoreStep | LikelihoodStep):
        outcome = _best_fit(step, rows, shop)
    elif isinstance(step, ConceptBalanceStep):
        outcome = _balance(step, rows, shop)
    elif isinstance(step, ConceptAgreementStep):
        assert shop.pool.concepts is not None
        agree = ~disjoint(shop.pool.concepts, rows)
        outcome = Outcome(selection((agree, "caption and picture share no concept")), {})
    elif isinstance(step, SemDedupStep):
        outcome = _semdedup(step, rows, shop)
    elif isinstance(step, NearDuplicatesStep):
        outcome = _near_duplicates(step, rows, shop)
    else:
        outcome = _tldr(step, rows, shop)
    outcome = replace(outcome, seconds=outcome.seconds + time.monotonic() - begin)
    _write(kept, outcome)
    return outcome


def _best_fit(step: ClipScoreStep | LikelihoodStep, rows: NDArray[np.int64], shop: Workshop) -> Outcome:
    measure = by(step)
    assert measure is not None
    fit = shop.pool.fit[measure][rows]
    stays = clip_score.top(fit, shop.pool.ranks[rows], resolve(step.keep, len(rows)))
    facts = {"threshold": float(fit[stays].min()), "by": measure}
    return Outcome(selection((stays, f"{measure} below the threshold")), facts)


def _tldr(step: TldrStep, rows: NDArray[np.int64], shop: Workshop) -> Outcome:
    ranks, scores = shop.pool.ranks[rows], shop.pool.fit[step.by][rows]
    found, before = clustered(step, step.features, rows, shop)
    labels, preferred = found.labels, scores if step.order == "score" else None
    better = tldr.better_half(scores, ranks) if step.rule in ("half_then_stratify", "reference") else None
    if step.rule == "reference":
        assert better is not None
        turn = np.zeros(len(rows), dtype=bool)
        turn[tldr.reference(labels, np.ones(len(rows), dtype=bool), step.stride)] = True
        chosen = selection((turn, tldr.NOT_ITS_TURN), (better, tldr.LOWER_HALF))
        order = _places(labels, np.arange(len(rows)))  # as they stand in the list, which is the published order
    else:
        assert step.keep is not None
        order = _places(labels, ranks, *(() if preferred is None else (-preferred,)))
        if step.rule == "uniform":
            chosen = tldr.uniform(labels, ranks, step.clusters, step.keep, preferred)
        elif step.rule == "budget":
            budget = resolve(step.keep, len(rows))
            chosen = tldr.stratify(labels, ranks, step.clusters, budget, step.quota, preferred)
        else:
            assert better is not None
            budget = resolve(step.keep, len(rows))
            chosen = tldr.half_then_stratify(labels, scores, ranks, step.clusters, budget, step.quota)
            order = _places(labels, ranks, ~better)
    facts: dict[str, Any] = {"rule": step.rule, "clusters": step.clusters}
    if better is not None:
        facts |= {"threshold": float(scores[better].min()), "by": step.by}
    return Outcome(chosen, facts, labels, order, None, before)


def _semdedup(step: SemDedupStep, rows: NDArray[np.int64], shop: Workshop) -> Outcome:
    ranks = shop.pool.ranks[rows]
    found, before = clustered(step, "image", rows, shop)
    table = feature_table("image", shop.pool, rows)
    with shop.stage.progress("compare inside clusters", 2 * len(rows), "row") as progress:
        nearest = semdedup.nearest_earlier(Watched(table, progress), found.labels, found.centroids, ranks, step.order)
    budget = None if step.keep is None else resolve(step.keep, len(rows))
    stays = semdedup.keep(nearest, ranks, step.eps, budget)
    most = float(nearest.similarity[stays].max()) if step.eps is None else 1 - step.eps
    # in clusters of unit rows, those with the lower cosine to the centre are farther from it
    first = {"hard": (-found.distances,), "easy": (found.distances,), "random": ()}[step.order]
    facts = {"clusters": step.clusters, "most_similar": most, "order": step.order}
    dropped = "too like an earlier one of its cluster"
    order = _places(found.labels, ranks, *first)
    return Outcome(selection((stays, dropped)), facts, found.labels, order, nearest.similarity, before)


def _near_duplicates(step: NearDuplicatesStep, rows: NDArray[np.int64], shop: Workshop) -> Outcome:
    keys, work = shop.pool.keys.take(pa.array(rows)), shop.folder / "looks" / shop.versions["raw"]
    stays = near_duplicates.keep(shop.raw, keys, step.max_distance, work, shop.workers, shop.stage, shop.cache)
    return Outcome(selection((stays, "looks nearly like an earlier one")), {"max_distance": step.max_distance})


def _balance(step: ConceptBalanceStep, rows: NDArray[np.int64], shop: Workshop) -> Outcome:
    pool = shop.pool
    if step.entries == "found":
        assert pool.concepts is not None
        found = matches(pool.concepts, rows)
    else:
        found = find_concepts(pool.captions.take(pa.array(rows)), shop.names, step.entries, step.min_count)
    draws = concept_balance.uniforms(pool.hashes[rows], key_hashes(found.names, shop.seed), found.entries, found.pairs)
    unmatched = step.unmatched == "keep"
    if step.keep is None:
        assert step.threshold is not None
        stays = concept_balance.keep(
            found.entries, found.pairs, draws, step.threshold, len(rows), keep_unmatched=unmatched
        )
    else:
        budget = resolve(step.keep, len(rows))
        stays = concept_balance.keep_budget(found.entries, found.pairs, draws, pool.ranks[rows], budget, unmatched)
    matched = concept_balance.matched(found.pairs, len(rows))
    facts: dict[str, Any] = {"entries": len(found.names), "threshold_pairs": step.threshold}
    return Outcome(selection((matched | stays, "no concept"), (stays, "concepts that are frequent")), facts)


def _places(labels: NDArray[np.int32], *keys: NDArray) -> NDArray[np.int32]:
    """Return the place of each row among those of its cluster, by keys of which the last counts most, int32 [m]."""
    order = np.lexsort((*keys, labels))
    counts = np.bincount(labels)
    places = np.empty(len(labels), dtype=np.int32)
    places[order] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return places


def clustered(
    config: ClusteringConfig, features: Features, rows: NDArray[np.int64], shop: Workshop
) -> tuple[Clusters, float]:
    """Cluster pairs, or read the clusters when some policy has made them before.

    Args:
        config: How.
        features: What is clustered.
        rows: The pairs, rows of the pool, int64 [m].
        shop: What the step works with.

    Returns:
        The clusters, and the seconds that they took when they were made elsewhere, 0 when they are made now.
    """
    settings = {name: getattr(config, name) for name in ClusteringConfig.model_fields}
    source = "embeddings" if features == "image" else "captioned"
    facts = {
        "settings": settings,
        "features": features,
        "version": {name: shop.versions[name] for name in ("raw", "valid", source)},
        "seed": shop.seed,
        "rows": hashlib.sha256(rows.tobytes()).hexdigest(),
        "code": code_digest("assets.reduction.clusters"),
    }
    folder = shop.folder / "clusters" / value_digest(facts)
    if folder.is_dir():
        made = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        labels, centroids, distances = (np.load(folder / f"{name}.npy") for name in _ARRAYS)
        shop.stage.log.info("%s: clusters are there already", shop.stage.name)
        return Clusters(labels, centroids, distances, tuple(made["objectives"])), made["seconds"]
    begin = time.monotonic()
    table = feature_table(features, shop.pool, rows)
    fit = min(config.clusters * config.most_rows_per_cluster, len(rows))
    whiten = 0 if config.components is None else min(len(rows), _MOST_WHITENED)
    with shop.stage.progress("cluster", whiten + fit + len(rows), "row") as progress:
        plain = ClusteringConfig(**_fitting(settings, table.shape[1]))
        found = cluster(Watched(table, progress), shop.pool.ranks[rows], plain, shop.seed)
    seconds = time.monotonic() - begin
    with atomic_folder(folder) as partial:
        for name in _ARRAYS:
            write_array(partial / f"{name}.npy", getattr(found, name))
        write_json(partial / "facts.json", {**facts, "objectives": found.objectives, "seconds": seconds})
    return found, 0.0


_ARRAYS = ("labels", "centroids", "distances")


def _fitting(settings: dict[str, Any], width: int) -> dict[str, Any]:
    """Return the settings with no more components than the rows are wide."""
    components = settings["components"]
    return {**settings, "components": None if components is None else min(components, width)}


def _write(path: Path, outcome: Outcome) -> None:
    arrays: dict[str, Any] = {"reason": outcome.selection.reason}
    arrays |= {n: v for n in ("clusters", "order", "similarity") if (v := getattr(outcome, n)) is not None}
    told = {"facts": outcome.facts, "reasons": outcome.selection.reasons, "seconds": outcome.seconds}
    with atomic_file(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, told=np.frombuffer(json.dumps(told).encode(), dtype=np.uint8), **arrays)


def _read(path: Path) -> Outcome:
    with np.load(path, allow_pickle=False) as arrays:
        told = json.loads(arrays["told"].tobytes())
        reason = arrays["reason"]
        chosen = Selection(reason == 0, reason, tuple(told["reasons"]))
        others = {name: arrays[name] for name in ("clusters", "order", "similarity") if name in arrays}
    return Outcome(chosen, told["facts"], seconds=told["seconds"], **others)
