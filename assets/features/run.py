"""Stage ``features``: embeddings of the captions of a data set's accepted training pairs, as a sidecar of its shards.

Equal captions are embedded once, wherever they stand: the distinct ones are cut into chunks of a few hundred, a killed
run goes on with the chunks that are not there yet, and several processes (torchrun) share them. Then the rows of each
shard are gathered from the chunks. What a cache depends on, the model's weights included, names its work folder.
"""

import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from assets.atomic import publish_folder
from assets.code_stamp import code_digest
from assets.config import MachineConfig
from assets.device import pick_device
from assets.errors import DataError, message
from assets.features.captions import ShardCaptions, read_captions
from assets.features.config import FeaturesConfig
from assets.features.encoders import RowEncoder, TextGroup, Words, facts_before_loading, groups_of, make_encoder
from assets.index import content_hash
from assets.language.lexicon import write_lexicon
from assets.manifest import MANIFEST, read_manifest, value_digest, verify_manifest, version_of
from assets.progress import Stage
from assets.row_files import RowFiles, data_offset, write_array
from assets.shard_cache import ShardCache
from assets.sidecar import KIND, SidecarWriter
from assets.text_rows import SLOT_MEANS, constant_slots, slot_name
from assets.unit import unit

CHUNK = 512
"""Distinct captions per unit of work; what a kill can cost."""
_TRIED = 16
_COUNTED = 256
_SECONDS_BETWEEN_LOOKS = 1.0
_GIB = 1 << 30
_SHOWN_CHARS = 80
_STORED = np.dtype("<f2")
"""Of the chunks; a chunk that is cut off is made again."""


@dataclass(frozen=True, slots=True)
class Folders:
    """Folders of the stage.

    Attributes:
        raw: From ``ingest``.
        valid: From ``validate``.
        out: What is published.
        work: Where unfinished work waits.
    """

    raw: Path
    valid: Path
    out: Path
    work: Path


@dataclass(frozen=True, slots=True)
class _Job:
    """The distinct captions of a group of slots.

    Attributes:
        group: The slots.
        captions: In the order of their hashes, so that chunks cost alike.
        folder: Of the chunks.
    """

    group: TextGroup
    captions: list[str]
    folder: Path

    def chunk(self, number: int) -> list[str]:
        """Return the captions of a chunk."""
        return self.captions[number * CHUNK : (number + 1) * CHUNK]

    def path(self, number: int) -> Path:
        """Return the file of a chunk."""
        return self.folder / f"{number:06d}.npy"

    def norms_path(self, number: int) -> Path:
        """Return the file with the norms of a chunk's states, float32 [n], of a lexical encoder."""
        return self.folder / f"{number:06d}.norms.npy"

    def has(self, number: int, width: int) -> bool:
        """Say whether a chunk is on disk and whole."""
        try:
            data_offset(self.path(number), _STORED, (len(self.chunk(number)), len(self.group.facets), width))
        except DataError:
            return False
        return True

    @property
    def num_chunks(self) -> int:
        """How many there are."""
        return -(-len(self.captions) // CHUNK)

    @property
    def slots(self) -> list[str]:
        """Names of the slots."""
        return [slot_name((self.group.caption, facet)) for facet in self.group.facets]


def make_features(
    name: str, config: FeaturesConfig, folders: Folders, machine: MachineConfig, cache: ShardCache | None = None
) -> None:
    """Embed the captions of a data set's accepted training pairs.

    Under torchrun every process embeds its share; the first one puts the folder together.

    Args:
        name: Of the entry in params.yaml.
        config: The entry.
        folders: Where things are and go.
        machine: Threads and device.
        cache: Knows the object store, for shards that lie in one.

    Raises:
        ConfigError: The encoder is not installed or not there.
        DataError: An input folder is missing, unfinished or holds no accepted pair; a caption is missing, or its row
            is not finite; a slot is the same for all pairs.
    """
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    read_manifest(folders.raw, "raw")
    read_manifest(folders.valid, "valid")
    if machine.threads:
        torch.set_num_threads(machine.threads)
    with Stage(f"features@{name}", quiet=rank > 0) as stage:
        device = pick_device(machine, int(os.environ.get("LOCAL_RANK", "0")))
        made_of = {
            "entry": config.model_dump(mode="json"),
            "encoder": facts_before_loading(config, device),
            "code": code_digest("assets.features.run"),
            "inputs": {"raw": version_of(folders.raw), "valid": version_of(folders.valid)},
        }
        work = folders.work / "features" / name / value_digest(made_of)
        if _is_made(folders.out, made_of, stage):
            stage.log.info("%s: %s is up to date", stage.name, folders.out)
        else:
            groups = groups_of(config)
            captions = list(dict.fromkeys(group.caption for group in groups))
            shards = read_captions(folders.raw, folders.valid, captions, cache, stage)
            jobs = [_job(group, shards, work / f"chunks-{number}") for number, group in enumerate(groups)]
            _refuse_equal_captions(jobs, name)
            encoder = make_encoder(config, device)
            vocabulary = encoder.vocabulary(_occurrences(shards)) if isinstance(encoder, Words) else None
            if not (work / "rows" / MANIFEST).exists():
                _embed(jobs, encoder, (rank, world_size), stage, sum(len(shard.keys) for shard in shards))
            if rank:
                return
            _wait(jobs, encoder.width, stage)
            if isinstance(encoder, Words) and vocabulary and not (work / "rows" / MANIFEST).exists():
                write_lexicon(work / "rows", encoder.lexicon(vocabulary, _mean_norm(jobs)))
            rows = _put_together(name, made_of, jobs, shards, encoder, work / "rows", stage)
            publish_folder(rows, folders.out)
            counts = read_manifest(folders.out, KIND)["counts"]
            stage.log.info("%s: rows of %d pairs in %s", stage.name, counts["rows"], folders.out)
        shutil.rmtree(work, ignore_errors=True)


def _is_made(folder: Path, made_of: Mapping[str, Any], stage: Stage) -> bool:
    """Say whether a published folder was made of the same things, and is whole."""
    if not (folder / MANIFEST).is_file():
        return False
    manifest = read_manifest(folder)
    told: dict[str, Any] = manifest["config"].get("stage") or {}
    encoder: dict[str, Any] = told.get("encoder") or {}
    found = {
        "entry": told.get("entry"),
        "encoder": {fact: encoder.get(fact) for fact in made_of["encoder"]},
        "code": manifest["code"],
        "inputs": manifest["inputs"],
    }
    if found != made_of:
        return False
    faults = verify_manifest(folder)
    if faults:
        stage.log.warning("%s: %s is made again, since %s", stage.name, folder, faults[0])
    return not faults


def _job(group: TextGroup, shards: Sequence[ShardCaptions], folder: Path) -> _Job:
    distinct = {caption for shard in shards for caption in shard.captions[group.caption]}
    return _Job(group, sorted(distinct, key=lambda caption: (content_hash(caption.encode()), caption)), folder)


def _occurrences(shards: Sequence[ShardCaptions]) -> Counter[str]:
    """Count how often each caption stands in the data set, under any name."""
    return Counter(caption for shard in shards for captions in shard.captions.values() for caption in captions)


def _refuse_equal_captions(jobs: Sequence[_Job], name: str) -> None:
    """Refuse slots of one caption before any work: nothing can be learnt from them."""
    for job in jobs:
        if len(job.captions) == 1:
            raise DataError(_no_difference(name, job.slots, job.captions[0][:_SHOWN_CHARS]))


def _no_difference(name: str, slots: Sequence[str], got: str) -> str:
    what = f"slot {', '.join(slots)} of features {name} is the same for all pairs"
    fix = f"drop it from features.{name}, or add pairs with other captions"
    return message(what, got, "more than one distinct caption", fix)


def _embed(jobs: Sequence[_Job], encoder: RowEncoder, share: tuple[int, int], stage: Stage, num_pairs: int) -> None:
    """Embed this process's share of the chunks that are not there yet."""
    rank, world_size = share
    todo = [(job, number) for job in jobs for number in range(job.num_chunks)][rank::world_size]
    left = [(job, number) for job, number in todo if not job.has(number, encoder.width)]
    if not left:
        return
    _tell_cost(jobs, left, encoder, stage, num_pairs)
    total = sum(len(job.chunk(number)) for job, number in todo)
    before = total - sum(len(job.chunk(number)) for job, number in left)
    cut_in_trial = encoder.cut()
    with stage.progress("embed", total, "caption", before) as progress:
        for job, number in left:
            captions = job.chunk(number)
            rows = _rows_of(encoder, job, number).astype(np.float16)
            write_array(job.path(number), rows)
            progress.advance(len(captions), caption=job.group.caption)
    if num_cut := encoder.cut() - cut_in_trial:
        stage.log.warning("%s: %d captions were longer than the limit and have been cut", stage.name, num_cut)


def _rows_of(encoder: RowEncoder, job: _Job, number: int) -> NDArray[np.float32]:
    """Return the unit rows of a chunk, [n, F, D]; norms that a lexicon needs go to disk before them."""
    captions = job.chunk(number)
    if not isinstance(encoder, Words):
        return encoder.encode(captions, job.group)
    states = encoder.states(captions)
    write_array(job.norms_path(number), np.linalg.norm(states, axis=1))
    return unit(states)[:, None]


def _tell_cost(
    jobs: Sequence[_Job], left: Sequence[tuple[_Job, int]], encoder: RowEncoder, stage: Stage, num_pairs: int
) -> None:
    """Log tokens, bytes and time of the work ahead, from a sample of it and a short trial."""
    tokens = 0.0
    for job in jobs:
        captions = [caption for one, number in left if one is job for caption in job.chunk(number)]
        sample = captions[:_COUNTED]
        tokens += encoder.tokens(sample, job.group) * len(captions) / max(len(sample), 1)
    job, number = left[0]
    trial = job.chunk(number)[:_TRIED]
    encoder.encode(trial[:1], job.group)  # the first call allocates
    begin = time.perf_counter()
    encoder.encode(trial, job.group)
    speed = encoder.tokens(trial, job.group) / max(time.perf_counter() - begin, 1e-6)
    distinct, slots = sum(len(job.captions) for job in jobs), sum(len(job.group.facets) for job in jobs)
    stage.log.info(
        "%s: %d distinct captions, about %.3g tokens to embed here at %.0f a second: %.2f hours; %.2f GiB of rows",
        *(stage.name, distinct, tokens, speed, tokens / speed / 3600),
        num_pairs * slots * encoder.width * 2 / _GIB,
    )


def _wait(jobs: Sequence[_Job], width: int, stage: Stage) -> None:
    """Wait for the chunks of the other processes; torchrun ends this one if one of them fails."""
    missing = [(job, number) for job in jobs for number in range(job.num_chunks)]
    told = False
    while missing := [(job, number) for job, number in missing if not job.has(number, width)]:
        if not told:
            stage.log.info("%s: waiting for %d chunks of other processes", stage.name, len(missing))
            told = True
        time.sleep(_SECONDS_BETWEEN_LOOKS)


class _Gatherer:
    """Finds the rows of captions in the chunks of a job."""

    def __init__(self, job: _Job, width: int) -> None:
        numbers = range(job.num_chunks)
        lengths = [len(job.chunk(number)) for number in numbers]
        paths = [job.path(number) for number in numbers]
        self._files = RowFiles(paths, lengths, _STORED, (len(job.group.facets), width))
        self._place = {caption: place for place, caption in enumerate(job.captions)}
        self._caption = job.group.caption

    def rows(self, shard: ShardCaptions) -> NDArray[np.float16]:
        """Return the rows of a shard, [n, F, D]."""
        places = np.array([self._place[caption] for caption in shard.captions[self._caption]], dtype=np.int32)
        return self._files.gather(places // CHUNK, places % CHUNK)


def _mean_norm(jobs: Sequence[_Job]) -> float:
    """Return the mean norm of the states of the distinct captions, whichever process made them."""
    norms: dict[str, float] = {}
    for job in jobs:
        for number in range(job.num_chunks):
            for caption, norm in zip(job.chunk(number), np.load(job.norms_path(number)).tolist(), strict=True):
                norms.setdefault(caption, norm)
    return math.fsum(norms.values()) / len(norms)


def _put_together(
    name: str,
    made_of: Mapping[str, Any],
    jobs: Sequence[_Job],
    shards: Sequence[ShardCaptions],
    encoder: RowEncoder,
    folder: Path,
    stage: Stage,
) -> Path:
    """Gather the rows of all shards in a finished folder, which may be there already."""
    entry = made_of["entry"]
    slots = [(job.group.caption, facet) for job in jobs for facet in job.group.facets]
    writer = SidecarWriter(folder, entry["dtype"], (len(slots), encoder.width))
    if not (folder / MANIFEST).exists():
        means = _gather(writer, jobs, shards, stage)
        if same := constant_slots(means):
            names = [slot_name(slots[place]) for place in same]
            raise DataError(_no_difference(name, names, "equal rows"))
        write_array(folder / SLOT_MEANS, means)
    stage_config = {
        "kind": entry["kind"],
        "entry": entry,
        "slots": [list(slot) for slot in slots],
        "centred": entry["dtype"] == "int8",
        "encoder": encoder.facts,
    }
    writer.finish([shard.name for shard in shards], name, stage_config, made_of["inputs"], made_of["code"])
    return folder


def _gather(
    writer: SidecarWriter, jobs: Sequence[_Job], shards: Sequence[ShardCaptions], stage: Stage
) -> NDArray[np.float32]:
    """Write the rows of every shard and return the mean of each slot, [R, D]; rows in int8 are centred."""
    gatherers = [_Gatherer(job, writer.row_shape[-1]) for job in jobs]

    def rows_of(shard: ShardCaptions) -> NDArray[np.float16]:
        return np.concatenate([gatherer.rows(shard) for gatherer in gatherers], axis=1)

    total = np.zeros(writer.row_shape)
    whole = writer.dtype.kind == "f"
    with stage.progress("gather", len(shards) * (1 if whole else 2), "shard") as progress:
        for shard in shards:
            rows = rows_of(shard)
            total += unit(rows.astype(np.float32)).sum(axis=0, dtype=np.float64)
            if whole:
                writer.write_shard(shard.name, shard.keys, rows)
            progress.advance()
        means = (total / sum(len(shard.keys) for shard in shards)).astype(np.float32)  # [R, D]
        for shard in () if whole else shards:
            writer.write_shard(shard.name, shard.keys, _quantised(rows_of(shard), means))
            progress.advance()
    return means


def _quantised(rows: NDArray[np.float16], means: NDArray[np.float32]) -> NDArray[np.int8]:
    """Centre rows and scale each by its own largest number; readers bring them to unit norm."""
    centred = unit(rows.astype(np.float32)) - means
    largest = np.abs(centred).max(axis=-1, keepdims=True)
    return np.rint(centred * (127 / np.where(largest > 0, largest, 1))).astype(np.int8)
