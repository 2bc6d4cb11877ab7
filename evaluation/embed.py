"""Stage ``embed``: pictures and captions of a data set's accepted training pairs in one model's space, with scores.

Equal captions are embedded once: the distinct ones are cut into chunks, then pictures follow shard by shard, so that a
killed run goes on with the chunks and shards that are not there yet, to the same bytes. Batches never cross a shard.
Several processes (torchrun) share chunks and shards. The folder is a sidecar, float16 rows [2, D] of unit norm: slot 0
the picture, slot 1 the caption. ``scores.parquet`` has the cosine of both, taken before they are rounded.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch.utils.data import DataLoader

from assets.atomic import publish_folder
from assets.code_stamp import code_digest
from assets.config import MachineConfig, load_machine
from assets.index import write_table
from assets.manifest import MANIFEST, read_manifest, value_digest, version_of
from assets.progress import Stage
from assets.row_files import RowFiles, write_array
from assets.shard_cache import cache_for
from assets.sidecar import SidecarWriter
from evaluation.checkpoints import find_model
from evaluation.embed_config import EmbeddingsConfig
from evaluation.encoder import Encoder
from evaluation.features import Images
from evaluation.sides import TextSide
from training.data.pairs import Pairs, load_pairs

SPLIT = "train"
SCORES = "scores.parquet"
SLOTS = ("image_features", "text_features")
CHUNK = 1024
"""Distinct captions per unit of work; what a kill can cost."""
_SECONDS_BETWEEN_LOOKS = 1.0


@dataclass(frozen=True, slots=True)
class Folders:
    """Folders of the stage.

    Attributes:
        raw: From ``ingest``.
        valid: From ``validate``.
        model: The run's export; None where a checkpoint embeds.
        out: What is published.
        work: Where unfinished work waits.
    """

    raw: Path
    valid: Path
    model: Path | None
    out: Path
    work: Path


@dataclass(frozen=True, slots=True)
class _Share:
    """This process among those that share the work."""

    rank: int
    world_size: int

    def of(self, items: Sequence[int]) -> list[int]:
        """Return every Nth item."""
        return list(items[self.rank :: self.world_size])


def embed(name: str, config: EmbeddingsConfig, folders: Folders, params: Path) -> None:
    """Embed and score the accepted training pairs of a data set.

    Under torchrun every process embeds its share; the first one puts the folder together.

    Args:
        name: Of the entry in params.yaml.
        config: The entry.
        folders: Where things are and go.
        params: The params.yaml; section ``machine``, and ``store`` when shards are URLs.

    Raises:
        ConfigError: The checkpoint is unknown or not on this machine.
        DataError: An input folder is missing, unfinished or holds no accepted pair; the model does not load, or gives
            numbers that are not finite.
    """
    share = _Share(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    machine = load_machine(params)
    read_manifest(folders.raw, "raw")
    read_manifest(folders.valid, "valid")
    model = find_model(config, folders.model)
    facts = {"dataset": config.dataset, "entry": config.model_dump(mode="json"), "model": model.facts, "slots": SLOTS}
    inputs = {"raw": version_of(folders.raw), "valid": version_of(folders.valid), "model": model.version}
    code = code_digest("evaluation.embed")
    work = folders.work / "embed" / name / value_digest({"config": facts, "code": code, "inputs": inputs})
    with Stage(f"embed@{name}", quiet=share.rank > 0) as stage:
        pairs = load_pairs(folders.raw, folders.valid, SPLIT)
        job = _Job(replace(pairs, cache=cache_for(pairs.shards, params)), work)
        writer = job.finished_writer()
        if writer is None:
            encoder = model.load(machine, stage, int(os.environ.get("LOCAL_RANK", "0")))
            writer = _embed(job, encoder, share, machine, config.batch_size, stage)
        if share.rank or writer is None:
            return
        _wait(lambda: len(job.names) - len(writer.done_shards()), "shards", stage)
        scores = job.assemble(writer)
        writer.finish(job.names, name, facts, inputs, code)
        publish_folder(writer.folder, folders.out)
        shutil.rmtree(work, ignore_errors=True)
        stage.log.info("%s: %d pairs in %s, mean score %.4f", stage.name, len(pairs), folders.out, scores.mean())
        stage.send({"pairs": len(pairs), "mean_score": float(scores.mean())}, force=True)


class _Job:
    """The pairs, and the files in which their parts wait.

    Attributes:
        pairs: In index order.
        names: Of the shards in the sidecar; the sidecar joins by key, so a number does where a shard is an address.
        captions: Distinct captions in order of first appearance.
        text_paths: The files of the chunks of captions, float32 [n, D] each.
    """

    def __init__(self, pairs: Pairs, work: Path) -> None:
        self.pairs, self._work = pairs, work
        stops = np.cumsum(pairs.shard_sizes).tolist()
        self._bounds = list(zip([0, *stops[:-1]], stops, strict=True))
        self.names = [f"{SPLIT}/{number:05d}" for number in range(len(stops))]
        encoded: Any = pairs.captions.dictionary_encode()
        self.captions: pa.StringArray = encoded.dictionary
        self._caption: npt.NDArray[np.int32] = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32)
        numbers = range(-(-len(self.captions) // CHUNK))
        self.text_paths = [work / "texts" / f"{number:06d}.npy" for number in numbers]
        self._texts: RowFiles | None = None

    def finished_writer(self) -> SidecarWriter | None:
        """Return the writer of a folder that a run left whole, killed before it was published."""
        rows = self._work / "rows"
        if not (rows / MANIFEST).is_file():
            return None
        return SidecarWriter(rows, "float16", tuple(read_manifest(rows)["config"]["row_shape"]))

    def chunk(self, number: int) -> list[str]:
        """Return the captions of a chunk."""
        return self.captions.slice(number * CHUNK, CHUNK).to_pylist()

    def open_texts(self) -> SidecarWriter:
        """Open the text features once all chunks are there; return the writer of the rows, whose width they tell."""
        width: int = np.load(self.text_paths[0], mmap_mode="r").shape[1]
        lengths = [min(CHUNK, len(self.captions) - number * CHUNK) for number in range(len(self.text_paths))]
        self._texts = RowFiles(self.text_paths, lengths, np.dtype("<f4"), (width,))
        return SidecarWriter(self._work / "rows", "float16", (len(SLOTS), width))

    def places(self, shard: int) -> range:
        """Return the places of a shard's pairs."""
        return range(*self._bounds[shard])

    def write(self, writer: SidecarWriter, shard: int, image_features: npt.NDArray[np.float32]) -> None:
        """Write rows and scores of a shard, whose pictures have become features, [n, D]."""
        assert self._texts is not None
        start, stop = self._bounds[shard]
        caption = self._caption[start:stop]
        text_features = self._texts.gather(caption // CHUNK, caption % CHUNK)  # [n, D]
        # scores first: once its rows are there, a shard counts as done
        write_array(self._score_path(shard), (image_features * text_features).sum(axis=1, dtype=np.float32))
        rows = np.stack([image_features, text_features], axis=1).astype(np.float16)  # [n, 2, D]
        writer.write_shard(self.names[shard], self.pairs.keys.slice(start, stop - start), rows)

    def _score_path(self, shard: int) -> Path:
        return self._work / "scores" / f"{shard:05d}.npy"

    def assemble(self, writer: SidecarWriter) -> npt.NDArray[np.float32]:
        """Write the scores of all pairs beside their rows, and return them."""
        scores = np.concatenate([np.load(self._score_path(shard)) for shard in range(len(self.names))])
        if not (writer.folder / MANIFEST).is_file():
            write_table(pa.table({"key": self.pairs.keys, "score": pa.array(scores)}), writer.folder / SCORES)
        return scores


def _embed(
    job: _Job, encoder: Encoder, share: _Share, machine: MachineConfig, batch_size: int, stage: Stage
) -> SidecarWriter | None:
    """Embed this process's share of the captions, and when all are there, of the pictures; None if it has no shard."""
    _embed_captions(job, encoder.text, share, stage)
    todo = share.of(range(len(job.names)))
    if not todo:
        return None
    _wait(lambda: sum(not path.is_file() for path in job.text_paths), "chunks of captions", stage)
    writer = job.open_texts()
    done = {*writer.done_shards()}
    left = [shard for shard in todo if job.names[shard] not in done]
    total, ahead = (sum(len(job.places(shard)) for shard in shards) for shards in (todo, left))
    if not left:
        return writer
    batches = [
        (shard, list(job.places(shard)[start : start + batch_size]))
        for shard in left
        for start in range(0, len(job.places(shard)), batch_size)
    ]
    parts: list[npt.NDArray[np.float32]] = []
    with stage.progress("embed pictures", total, "image", total - ahead) as progress:
        encoded = encoder.encode_images(_pictures(job.pairs, encoder, batches, machine.workers))
        for features, (shard, places) in zip(encoded, batches, strict=True):
            parts.append(features.image_features)
            progress.advance(len(places))
            if places[-1] == job.places(shard)[-1]:
                job.write(writer, shard, np.concatenate(parts))
                parts.clear()
    return writer


def _embed_captions(job: _Job, text: TextSide, share: _Share, stage: Stage) -> None:
    todo = share.of(range(len(job.text_paths)))
    left = [number for number in todo if not job.text_paths[number].is_file()]
    total, ahead = (sum(len(job.chunk(number)) for number in numbers) for numbers in (todo, left))
    with stage.progress("embed captions", total, "caption", total - ahead) as progress:
        for number in left:
            captions = job.chunk(number)
            write_array(job.text_paths[number], text.encode(captions))
            progress.advance(len(captions))


def _pictures(
    pairs: Pairs, encoder: Encoder, batches: Sequence[tuple[int, list[int]]], workers: int
) -> Iterator[torch.Tensor]:
    """Yield preprocessed pictures, [B, 3, height, width], while coming shards are on their way where they are far."""
    loader: DataLoader[torch.Tensor] = DataLoader(
        Images(pairs, encoder.preprocess_array),
        batch_sampler=[places for _, places in batches],
        num_workers=min(workers, len(batches)),
    )
    shards = list(dict.fromkeys(shard for shard, _ in batches))
    before = -1
    for images, (shard, _) in zip(loader, batches, strict=True):
        if shard != before:
            pairs.prefetch(shards[shards.index(shard) + 1 :][:1])
            before = shard
        yield images


def _wait(missing: Callable[[], int], what: str, stage: Stage) -> None:
    """Wait for the work of the other processes; torchrun ends this one if one of them fails."""
    told = False
    while count := missing():
        if not told:
            stage.log.info("%s: waiting for %d %s of other processes", stage.name, count, what)
            told = True
        time.sleep(_SECONDS_BETWEEN_LOOKS)
