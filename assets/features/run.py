"""Stage ``features``: embeddings of the captions of a data set's accepted training pairs, as a sidecar of its shards.

Equal captions are embedded once, wherever they stand: the distinct ones are cut into chunks of a few hundred, a killed
run goes on with the chunks that are not there yet, and several processes (torchrun) share them. Then the rows of each
shard are gathered from the chunks. What a cache depends on, the model's weights included, names its work folder.
"""

import os
import shutil
import time
from collections.abc import Sequence
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
from assets.features.captions import ShardCaptions, read_captions
from assets.features.config import FeaturesConfig
from assets.features.encoders import RowEncoder, TextGroup, groups_of, make_encoder
from assets.index import content_hash
from assets.manifest import MANIFEST, read_manifest, value_digest, version_of
from assets.progress import Stage
from assets.row_files import RowFiles, write_array
from assets.shard_cache import ShardCache
from assets.sidecar import KIND, SidecarWriter
from assets.text_rows import SLOT_MEANS

CHUNK = 512
"""Distinct captions per unit of work; what a kill can cost."""
_TRIED = 16
_COUNTED = 256
_SECONDS_BETWEEN_LOOKS = 1.0
_GIB = 1 << 30


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

    @property
    def paths(self) -> list[Path]:
        """The files of all chunks."""
        return [self.folder / f"{number:06d}.npy" for number in range(-(-len(self.captions) // CHUNK))]


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
            is not finite.
    """
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    read_manifest(folders.raw, "raw")
    read_manifest(folders.valid, "valid")
    if machine.threads:
        torch.set_num_threads(machine.threads)
    groups = groups_of(config)
    with Stage(f"features@{name}", quiet=rank > 0) as stage:
        names = list(dict.fromkeys(group.caption for group in groups))
        shards = read_captions(folders.raw, folders.valid, names, cache, stage)
        encoder = make_encoder(config, pick_device(machine, int(os.environ.get("LOCAL_RANK", "0"))))
        slots = [[group.caption, facet] for group in groups for facet in group.facets]
        stage_config = {
            "kind": config.kind,
            "entry": config.model_dump(mode="json"),
            "slots": slots,
            "centred": config.dtype == "int8",
            "encoder": encoder.facts,
        }
        code = code_digest("assets.features.run")
        inputs = {"raw": version_of(folders.raw), "valid": version_of(folders.valid)}
        work = folders.work / "features" / name / value_digest({"config": stage_config, "code": code, "inputs": inputs})
        jobs = [_job(group, shards, work / f"chunks-{number}") for number, group in enumerate(groups)]
        if not (work / "rows" / MANIFEST).exists():
            _embed(jobs, encoder, (rank, world_size), stage, sum(len(shard.keys) for shard in shards))
        if rank:
            return
        _wait(jobs, stage)
        writer = SidecarWriter(work / "rows", config.dtype, (len(slots), encoder.width))
        if not (writer.folder / MANIFEST).exists():
            _assemble(writer, jobs, shards, stage)
        writer.finish([shard.name for shard in shards], name, stage_config, inputs, code)
        publish_folder(writer.folder, folders.out)
        shutil.rmtree(work, ignore_errors=True)
        rows = read_manifest(folders.out, KIND)["counts"]["rows"]
        stage.log.info("%s: %d pairs x %d slots in %s", stage.name, rows, writer.row_shape[0], folders.out)


def _job(group: TextGroup, shards: Sequence[ShardCaptions], folder: Path) -> _Job:
    distinct = {caption for shard in shards for caption in shard.captions[group.caption]}
    return _Job(group, sorted(distinct, key=lambda caption: (content_hash(caption.encode()), caption)), folder)


def _embed(jobs: Sequence[_Job], encoder: RowEncoder, share: tuple[int, int], stage: Stage, num_pairs: int) -> None:
    """Embed this process's share of the chunks that are not there yet."""
    rank, world_size = share
    todo = [(job, number) for job in jobs for number in range(len(job.paths))][rank::world_size]
    left = [(job, number) for job, number in todo if not job.paths[number].is_file()]
    if not left:
        return
    _tell_cost(jobs, left, encoder, stage, num_pairs)
    total = sum(len(job.chunk(number)) for job, number in todo)
    before = total - sum(len(job.chunk(number)) for job, number in left)
    with stage.progress("embed", total, "caption", before) as progress:
        for job, number in left:
            captions = job.chunk(number)
            rows = encoder.encode(captions, job.group).astype(np.float16)
            write_array(job.paths[number], rows)
            progress.advance(len(captions), caption=job.group.caption)
    if encoder.cut():
        stage.log.warning("%s: %d captions were longer than the limit and have been cut", stage.name, encoder.cut())


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


def _wait(jobs: Sequence[_Job], stage: Stage) -> None:
    """Wait for the chunks of the other processes; torchrun ends this one if one of them fails."""
    paths = [path for job in jobs for path in job.paths]
    told = False
    while missing := sum(not path.is_file() for path in paths):
        if not told:
            stage.log.info("%s: waiting for %d chunks of other processes", stage.name, missing)
            told = True
        time.sleep(_SECONDS_BETWEEN_LOOKS)


class _Gatherer:
    """Finds the rows of captions in the chunks of a job."""

    def __init__(self, job: _Job, width: int) -> None:
        lengths = [len(job.chunk(number)) for number in range(len(job.paths))]
        self._files = RowFiles(job.paths, lengths, np.dtype("<f2"), (len(job.group.facets), width))
        self._place = {caption: place for place, caption in enumerate(job.captions)}
        self._caption = job.group.caption

    def rows(self, shard: ShardCaptions) -> NDArray[np.float16]:
        """Return the rows of a shard, [n, F, D]."""
        places = np.array([self._place[caption] for caption in shard.captions[self._caption]], dtype=np.int32)
        return self._files.gather(places // CHUNK, places % CHUNK)


def _assemble(writer: SidecarWriter, jobs: Sequence[_Job], shards: Sequence[ShardCaptions], stage: Stage) -> None:
    """Gather the rows of every shard, with the mean of each slot; rows in int8 are centred."""
    gatherers = [_Gatherer(job, writer.row_shape[-1]) for job in jobs]

    def rows_of(shard: ShardCaptions) -> NDArray[np.float16]:
        return np.concatenate([gatherer.rows(shard) for gatherer in gatherers], axis=1)

    total = np.zeros(writer.row_shape)
    whole = writer.dtype.kind == "f"
    with stage.progress("gather", len(shards) * (1 if whole else 2), "shard") as progress:
        for shard in shards:
            rows = rows_of(shard)
            total += rows.astype(np.float64).sum(axis=0)
            if whole:
                writer.write_shard(shard.name, shard.keys, rows)
            progress.advance()
        means = (total / sum(len(shard.keys) for shard in shards)).astype(np.float32)  # [R, D]
        for shard in () if whole else shards:
            writer.write_shard(shard.name, shard.keys, _quantised(rows_of(shard), means))
            progress.advance()
    write_array(writer.folder / SLOT_MEANS, means)


def _quantised(rows: NDArray[Any], means: NDArray[np.float32]) -> NDArray[np.int8]:
    """Centre rows and scale each by its own largest number; readers bring them to unit norm."""
    centred = rows.astype(np.float32) - means
    largest = np.abs(centred).max(axis=-1, keepdims=True)
    return np.rint(centred * (127 / np.where(largest > 0, largest, 1))).astype(np.int8)
