"""Stage ``reduce``: decide about every accepted training pair of a data set, and publish the plan with its report.

Finished steps, clusterings and shards wait in the work folder, so that a killed run goes on where it was. The folder of
the plan depends on inputs, entry and code alone. What this run took is told by the report, a folder of its own, so that
making a policy again on another machine makes no run stale.
"""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported, out of a type checker's sight

import json
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from assets.atomic import publish_folder, write_json, write_text
from assets.code_stamp import code_digest
from assets.config import MachineConfig
from assets.errors import DataError, message
from assets.folder_lock import folder_lock
from assets.index import read_index, write_table
from assets.manifest import value_digest, write_manifest
from assets.progress import Stage
from assets.raw_folder import DATASET
from assets.reduction.captions import common_captions, final_captions, kept_pairs
from assets.reduction.config import NONE, ExchangedCaptions, OriginalCaptions, PolicyConfig
from assets.reduction.exchange import caption_sources
from assets.reduction.plan import COST, KIND, PLAN, REPORT, SCHEMA, SHARDS, SUMMARY
from assets.reduction.pool import SPLIT, Pool, Sources, read_pool
from assets.reduction.report import Shown, report_page, report_parts
from assets.reduction.shards_out import COLUMNS, FINAL, write_shards
from assets.reduction.steps import NO_CLUSTER, Workshop, carry_out
from assets.reduction.steps_concepts import class_names
from assets.shard_cache import ShardCache


@dataclass(frozen=True, slots=True)
class Folders:
    """Folders of the stage.

    Attributes:
        raw: From ``ingest``.
        valid: From ``validate``.
        embeddings: From ``embed``; None where the policy names none.
        captioned: From ``captioner``; None where the policy names none.
        concepts: From ``concepts``; None where the policy names none.
        out: What is published.
        report: The page about it.
        work: Where unfinished work waits.
        logs: Gets what only this machine can say, the seconds of each activity; no stage declares it.
    """

    raw: Path
    valid: Path
    embeddings: Path | None
    captioned: Path | None
    concepts: Path | None
    out: Path
    report: Path
    work: Path
    logs: Path


@dataclass(slots=True)
class _Decisions:
    """What the chain has decided so far, of all n pairs of the pool.

    Attributes:
        reason: A place in ``reasons`` for each pair, int16 [n]; 0 where it is kept so far.
        reasons: The texts; the first one is empty.
        cluster: int32 [n].
        order: int32 [n].
        similarity: float32 [n].
        steps: What summary.json says of each step.
        cost: Activity -> seconds.
    """

    reason: NDArray[np.int16]
    reasons: list[str]
    cluster: NDArray[np.int32]
    order: NDArray[np.int32]
    similarity: NDArray[np.float32]
    steps: list[dict[str, Any]]
    cost: dict[str, float]


def reduce(
    name: str, config: PolicyConfig, folders: Folders, machine: MachineConfig, cache: ShardCache | None = None
) -> None:
    """Carry out a policy.

    Args:
        name: Of the entry in params.yaml.
        config: The entry.
        folders: Where things are and go.
        machine: Threads and workers.
        cache: Knows the object store, for shards that lie in one.

    Raises:
        ConfigError: The policy asks for more than its pool has.
        DataError: An input is missing, unfinished, of another version of the data or lacks some pairs; or nothing is
            kept.
    """
    if machine.threads:
        torch.set_num_threads(machine.threads)
    with Stage(f"reduce@{name}") as stage:
        begin = time.monotonic()
        sources = _sources(config, folders)
        inputs, code = sources.versions(), code_digest("assets.reduction.run")
        facts = config.model_dump(mode="json")
        pool = read_pool(config, sources)
        stage.log.info("%s: %d pairs in the pool, %d steps", stage.name, len(pool), len(config.steps))
        root = folders.work / "reduce"
        work = root / name / value_digest({"config": facts, "code": code, "inputs": inputs})
        with folder_lock(work, "reduce works in"):
            for partial in work.rglob(".*.partial"):
                partial.unlink()
            dataset = json.loads((folders.raw / DATASET).read_text(encoding="utf-8"))
            files = (root / "shared", stage, folders.raw, machine.workers, cache)
            shop = Workshop(pool, class_names(dataset), inputs, config.seed, *files)
            decisions = _decide(config, shop, work, time.monotonic() - begin)
            output = work / "output"
            plan, outcomes = _plan(config, pool, decisions)
            write_table(plan, output / PLAN)
            if config.shards:
                with _timed(decisions.cost, "shards"):
                    rows = _shard_rows(folders.raw, plan)
                    write_shards(rows, folders.raw, output / SHARDS, stage, machine.workers, cache)
            summary = _summary(name, config, decisions, outcomes)
            with _timed(decisions.cost, "report"):
                parts = report_parts(Shown(config, plan, pool.captions, shop.names, summary), folders.raw, stage, cache)
            summary |= parts.facts
            write_json(output / SUMMARY, summary)
            write_text(work / "report" / REPORT, report_page(summary, parts))
            publish_folder(work / "report", folders.report)
            write_json(folders.logs / COST, _rounded(decisions.cost))
            counts = {"pool": summary["pool"], "kept": summary["kept"]}
            write_manifest(output, KIND, name, {"stage": facts}, counts, inputs, code)
            publish_folder(output, folders.out)
            shutil.rmtree(work)
        stage.log.info("%s: kept %d of %d pairs in %s", stage.name, counts["kept"], counts["pool"], folders.out)
        stage.send(counts, force=True)


def _sources(config: PolicyConfig, folders: Folders) -> Sources:
    return Sources(
        folders.raw,
        folders.valid,
        folders.embeddings if config.embeddings != NONE else None,
        folders.captioned if config.captioner != NONE else None,
        folders.concepts if config.concepts != NONE else None,
    )


def _decide(config: PolicyConfig, shop: Workshop, work: Path, reading: float) -> _Decisions:
    """Carry out the chain."""
    size = len(shop.pool)
    decisions = _Decisions(
        np.zeros(size, dtype=np.int16),
        [""],
        np.full(size, NO_CLUSTER, dtype=np.int32),
        np.full(size, NO_CLUSTER, dtype=np.int32),
        np.full(size, np.nan, dtype=np.float32),
        [],
        {"read": reading},
    )
    rows = np.arange(size)
    for number, step in enumerate(config.steps, 1):
        name = f"{number} {step.kind}"
        outcome = carry_out(step, number, rows, shop, work / f"step-{number}.npz")
        chosen = outcome.selection
        lost = ~chosen.kept
        decisions.reason[rows[lost]] = chosen.reason[lost] + len(decisions.reasons) - 1
        decisions.reasons += [f"{name}: {reason}" for reason in chosen.reasons[1:]]
        if outcome.clusters is not None and outcome.order is not None:
            decisions.cluster[rows], decisions.order[rows] = outcome.clusters, outcome.order
        if outcome.similarity is not None:
            decisions.similarity[rows] = outcome.similarity
        kept = int(chosen.kept.sum())
        told = {"step": name, "seen": len(rows), "kept": kept, "dropped": chosen.counts(), **outcome.facts}
        decisions.steps.append(told)
        decisions.cost[name] = outcome.seconds
        shop.stage.log.info("%s: step %s keeps %d of %d pairs", shop.stage.name, name, kept, len(rows))
        rows = rows[chosen.kept]
        if not len(rows):
            raise DataError(message(f"step {name} keeps none of the pairs it saw", 0, "1 or more", "loosen the step"))
    return decisions


def _plan(config: PolicyConfig, pool: Pool, decisions: _Decisions) -> tuple[pa.Table, dict[str, int]]:
    """Return plan.parquet, and what became of captions -> pairs."""
    kept = decisions.reason == 0
    with _timed(decisions.cost, "captions"):
        captions, owners, outcomes = _captions(config, pool, np.flatnonzero(kept))
    # from place among the kept to place in the pool; pairs that are dropped have no caption of their own
    places = pa.array(np.cumsum(kept) - 1, mask=~kept)
    columns = [
        pool.keys,
        pa.array(kept),
        pa.array(decisions.reasons, pa.string()).take(pa.array(decisions.reason)),
        pa.array(decisions.cluster),
        pa.array(pool.fit["score"]),
        pa.array(pool.fit["likelihood"]),
        captions.take(places),
        pa.array(decisions.order),
        pa.array(decisions.similarity),
        owners.take(places),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA), outcomes


def _captions(
    config: PolicyConfig, pool: Pool, kept: NDArray[np.int64]
) -> tuple[pa.StringArray, pa.StringArray, dict[str, int]]:
    """Return the captions of the kept pairs, null where the original stands, and the keys of exchanged ones' owners."""
    rule, none = config.caption_rule, pa.nulls(len(kept), pa.string())
    if isinstance(rule, ExchangedCaptions):
        keys, own = pool.keys.take(pa.array(kept)), pool.captions.take(pa.array(kept))
        sources = caption_sources(rule, keys, config.seed)
        places = pa.array(sources, mask=sources == np.arange(len(sources)))
        owners, given = keys.take(places), own.take(places)
        # two pairs may say the same
        captions = pc.if_else(pc.equal(given, own), pa.scalar(None, pa.string()), given)
        displaced, changed = len(keys) - owners.null_count, len(keys) - captions.null_count
        return captions, owners, {"displaced": displaced, "displaced, and another text": changed}
    if isinstance(rule, OriginalCaptions) or pool.generated is None:
        return none, none, {}
    common = common_captions(pool.generated.captions, rule.filter)
    pairs = kept_pairs(pool.keys, pool.captions, pool.fit["score"], pool.generated, kept)
    final = final_captions(rule, pairs, common, config.seed)
    return final.captions, none, final.outcomes


def _shard_rows(raw: Path, plan: pa.Table) -> pa.Table:
    """Return the index rows of the kept pairs, with their final captions."""
    kept = plan.filter(pc.field("kept"))
    index = read_index(raw, COLUMNS, SPLIT)
    places = pc.index_in(kept.column("key"), value_set=index.column("key").combine_chunks())
    return index.take(places).append_column(FINAL, kept.column("caption"))


def _summary(name: str, config: PolicyConfig, decisions: _Decisions, outcomes: dict[str, int]) -> dict[str, Any]:
    pool, kept = len(decisions.reason), int((decisions.reason == 0).sum())
    return {
        "policy": name,
        "dataset": config.dataset,
        "pool": pool,
        "kept": kept,
        "kept_share": kept / pool,
        "steps": decisions.steps,
        "captions": {"kind": config.caption_rule.kind, "outcomes": outcomes},
    }


@contextmanager
def _timed(cost: dict[str, float], activity: str) -> Generator[None]:
    begin = time.monotonic()
    yield
    cost[activity] = time.monotonic() - begin


def _rounded(seconds: dict[str, float]) -> dict[str, float]:
    rounded = {activity: round(value, 3) for activity, value in seconds.items()}
    return {**rounded, "total": round(sum(seconds.values()), 3)}
