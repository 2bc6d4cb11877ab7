"""Stage ``embed``: pictures and captions of a data set's accepted training pairs in one model's space, with scores.

Equal captions are embedded once: the distinct ones are cut into chunks, then pictures follow shard by shard, so that a
killed run goes on with the chunks and shards that are not there yet, to the same bytes. Batches never cross a shard.
Several processes (torchrun) share chunks and shards. The folder is a sidecar, float16 rows [2, D] of unit norm: slot 0
the picture, slot 1 the caption. ``scores.parquet`` has the cosine of both, taken before they are rounded.
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from assets.atomic import publish_folder
from assets.code_stamp import code_digest
from assets.config import MachineConfig, load_machine
from assets.index import write_table
from assets.manifest import MANIFEST, read_manifest, value_digest, version_of
from assets.progress import Stage
from assets.row_files import write_array
from assets.shard_cache import cache_for
from assets.sidecar import SidecarWriter
from evaluation.checkpoints import find_model
from evaluation.embed_config import EmbeddingsConfig
from evaluation.encoder import Encoder
from evaluation.features import Images
from evaluation.shared_work import CaptionRows, Share, read_batches, shard_batches, shard_ranges, wait, whole_shards
from training.data.pairs import Pairs, load_pairs

SPLIT = "train"
SCORES = "scores.parquet"
SLOTS = ("image_features", "text_features")
CHUNK = 1024
"""Distinct captions per unit of work; what a kill can cost."""


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
    share = Share.of_this_process()
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
            encoder = model.load(machine, stage, share.local_rank)
            writer = _embed(job, encoder, share, machine, config.batch_size, stage)
        if share.rank or writer is None:
            return
        wait(lambda: len(job.names) - len(writer.done_shards()), "shards", stage)
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
        ranges: Places of each shard's pairs.
        texts: Features of the captions.
    """

    def __init__(self, pairs: Pairs, work: Path) -> None:
        self.pairs, self._work = pairs, work
        self.ranges = shard_ranges(pairs)
        self.names = [f"{SPLIT}/{number:05d}" for number in range(len(self.ranges))]
        self.texts = CaptionRows(pairs.captions, work / "texts", CHUNK)

    def finished_writer(self) -> SidecarWriter | None:
        """Return the writer of a folder that a run left whole, killed before it was published."""
        rows = self._work / "rows"
        if not (rows / MANIFEST).is_file():
            return None
        return SidecarWriter(rows, "float16", tuple(read_manifest(rows)["config"]["row_shape"]))

    def open_texts(self, stage: Stage) -> SidecarWriter:
        """Open the text features once all chunks are there; return the writer of the rows, whose width they tell."""
        return SidecarWriter(self._work / "rows", "float16", (len(SLOTS), self.texts.open(stage)))

    def write(self, writer: SidecarWriter, shard: int, image_features: npt.NDArray[np.float32]) -> None:
        """Write rows and scores of a shard, whose pictures have become features, [n, D]."""
        places = self.ranges[shard]
        text_features = self.texts.rows(places)  # [n, D]
        # scores first: once its rows are there, a shard counts as done
        write_array(self._score_path(shard), (image_features * text_features).sum(axis=1, dtype=np.float32))
        rows = np.stack([image_features, text_features], axis=1).astype(np.float16)  # [n, 2, D]
        writer.write_shard(self.names[shard], self.pairs.keys.slice(places.start, len(places)), rows)

    def _score_path(self, shard: int) -> Path:
        return self._work / "scores" / f"{shard:05d}.npy"

    def assemble(self, writer: SidecarWriter) -> npt.NDArray[np.float32]:
        """Write the scores of all pairs beside their rows, and return them."""
        scores = np.concatenate([np.load(self._score_path(shard)) for shard in range(len(self.names))])
        if not (writer.folder / MANIFEST).is_file():
            write_table(pa.table({"key": self.pairs.keys, "score": pa.array(scores)}), writer.folder / SCORES)
        return scores


def _embed(
    job: _Job, encoder: Encoder, share: Share, machine: MachineConfig, batch_size: int, stage: Stage
) -> SidecarWriter | None:
    """Embed this process's share of the captions, and when all are there, of the pictures; None if it has no shard."""
    job.texts.encode(encoder.text, share, stage)
    todo = share.of(range(len(job.names)))
    if not todo:
        return None
    writer = job.open_texts(stage)
    done = {*writer.done_shards()}
    left = [shard for shard in todo if job.names[shard] not in done]
    total, ahead = (sum(len(job.ranges[shard]) for shard in shards) for shards in (todo, left))
    if not left:
        return writer
    batches = shard_batches(job.ranges, left, batch_size)
    with stage.progress("embed pictures", total, "image", total - ahead) as progress:
        images = Images(job.pairs, encoder.preprocess_array)
        encoded = encoder.encode_images(read_batches(job.pairs, images, batches, machine.workers))
        parts = (features.image_features for features in encoded)
        for shard, image_features in whole_shards(parts, batches, job.ranges, progress):
            job.write(writer, shard, image_features)
    return writer
