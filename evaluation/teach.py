"""Stage ``teach``: a model that students learn from, self-contained, with what it says of the training pairs.

With a cache, the teacher looks once at K random views of each image, the whole image and the caption; students then
train without running it. Views follow each other shard by shard and equal captions are embedded once, so that a killed
run goes on with what is not there yet, to the same bytes; several processes (torchrun) share the work. An ensemble
takes in the models and the rows of another teacher, which stand first. See ``training/teachers`` for the folder.
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from assets.atomic import publish_folder
from assets.code_stamp import code_digest
from assets.config import MachineConfig, load_machine
from assets.errors import ConfigError, message
from assets.manifest import read_manifest, value_digest, version_of, write_manifest
from assets.progress import Stage
from assets.shard_cache import cache_for
from assets.sidecar import SidecarWriter
from evaluation.checkpoints import EmbeddingModel, find_model
from evaluation.encoder import load_encoder
from evaluation.shared_work import CaptionRows, Share, read_batches, shard_batches, shard_ranges, wait, whole_shards
from evaluation.teach_models import ExportFacts, place_models, write_export
from evaluation.teach_views import TeacherViews, prepared
from training.data.pairs import Pairs, load_pairs
from training.teachers.config import TeacherConfig, other_cache
from training.teachers.package import KIND, ROWS, TeacherModel, TeacherPackage, check_data, read_package, write_package
from training.teachers.rows import TeacherRows

SPLIT = "train"
CHUNK = 1024
"""Distinct captions per unit of work; what a kill can cost."""


@dataclass(frozen=True, slots=True)
class Folders:
    """Folders of the stage.

    Attributes:
        raw: From ``ingest``.
        valid: From ``validate``.
        model: The run's export; None where a checkpoint teaches.
        other: The teacher that is taken in; None for none.
        out: What is published.
        work: Where unfinished work waits.
    """

    raw: Path
    valid: Path
    model: Path | None
    other: Path | None
    out: Path
    work: Path


def teach(name: str, config: TeacherConfig, folders: Folders, params: Path) -> None:
    """Make a teacher.

    Under torchrun every process embeds its share; the first one puts the folder together.

    Args:
        name: Of the entry in params.yaml.
        config: The entry.
        folders: Where things are and go.
        params: The params.yaml; section ``machine``, and ``store`` when shards are URLs.

    Raises:
        ConfigError: The checkpoint is unknown or not on this machine, has no text tower though there is no cache, or
            the teacher taken in has another cache.
        DataError: An input folder is missing, unfinished, made from other data or holds no accepted pair; the model
            does not load, or gives numbers that are not finite.
    """
    share = Share.of_this_process()
    machine = load_machine(params)
    read_manifest(folders.raw, "raw")
    read_manifest(folders.valid, "valid")
    inputs = {"raw": version_of(folders.raw), "valid": version_of(folders.valid)}
    other = _taken_in(config, folders.other, inputs)
    model = find_model(config, folders.model)
    facts = {"dataset": config.dataset, "entry": config.model_dump(mode="json"), "model": model.facts}
    inputs["model"] = model.version
    if other is not None:
        inputs["other"] = version_of(other.folder)
    code = code_digest("evaluation.teach")
    work = folders.work / "teach" / name / value_digest({"config": facts, "code": code, "inputs": inputs})
    with Stage(f"teach@{name}", quiet=share.rank > 0) as stage:
        own = work / "models" / str(share.rank)  # no process waits for another one's
        told = write_export(model, own)
        package, counts = work / "package", {"models": 1 + (0 if other is None else len(other.models))}
        job: _Job | None = None
        if config.cache is not None:
            pairs = load_pairs(folders.raw, folders.valid, SPLIT)
            pairs = replace(pairs, cache=cache_for(pairs.shards, params))
            job = _Job(pairs, config, told, other, work)
            job.run(own, share, machine, stage)
            counts["pairs"] = len(pairs)
        elif told.frozen_text:
            raise _lacks_text(config)
        if share.rank:
            return
        if job is not None:
            wait(job.count_missing, "shards", stage)
        _assemble(package, own, _own_model(config, model, told, own), other, config)
        if job is not None:
            job.writer.finish(job.names, name, facts, inputs, code)
        write_manifest(package, KIND, name, facts, counts, inputs, code)
        publish_folder(package, folders.out)
        shutil.rmtree(work, ignore_errors=True)
        stage.log.info("%s: %s in %s", stage.name, ", ".join(f"{n} {what}" for what, n in counts.items()), folders.out)
        stage.send(dict(counts), force=True)


def _taken_in(config: TeacherConfig, folder: Path | None, inputs: dict[str, str]) -> TeacherPackage | None:
    """Open the teacher that is taken in, if there is one."""
    if folder is None:
        return None
    other = read_package(folder)
    check_data(read_manifest(folder, KIND), inputs)
    if other.cache != config.cache:
        raise other_cache(f"the teacher in {folder}", other.cache, config.cache)
    return other


def _lacks_text(config: TeacherConfig) -> ConfigError:
    who = config.run if config.checkpoint is None else "the checkpoint"
    what = f"{who} has frozen text and no text tower, so students cannot run it on their captions"
    return ConfigError(message(what, fix="give the teacher a cache, which holds its captions' features"))


def _own_model(config: TeacherConfig, model: EmbeddingModel, told: ExportFacts, folder: Path) -> TeacherModel:
    scale = told.logit_scale if config.logit_scale is None else config.logit_scale
    return TeacherModel(folder, told.embed_dim, scale, told.image_size, model.facts)


def _assemble(
    package: Path, own: Path, model: TeacherModel, other: TeacherPackage | None, config: TeacherConfig
) -> None:
    """Put models and facts into the folder, and out of it whatever a killed attempt has left beside the rows."""
    package.mkdir(parents=True, exist_ok=True)
    for path in package.iterdir():
        if path.name in (ROWS, f"{ROWS}.keys"):
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    models = [*(() if other is None else other.models), model]
    places = place_models(package, models[:-1], own)
    placed = [replace(one, folder=place) for one, place in zip(models, places, strict=True)]
    write_package(package, placed, config.cache)


class _Job:
    """The rows: the pairs, and the files in which their parts wait.

    Attributes:
        names: Of the shards in the sidecar; it joins by key, so a number does where a shard is an address.
        writer: Of the rows.
    """

    def __init__(
        self, pairs: Pairs, config: TeacherConfig, told: ExportFacts, other: TeacherPackage | None, work: Path
    ) -> None:
        assert config.cache is not None
        self._pairs, self._cache, self._told, self._batch_size = pairs, config.cache, told, config.batch_size
        self._ranges = shard_ranges(pairs)
        self.names = [f"{SPLIT}/{number:05d}" for number in range(len(self._ranges))]
        self._texts = CaptionRows(pairs.captions, work / "texts", CHUNK)
        self._other = None if other is None else TeacherRows(other)
        self._places = None if self._other is None else self._other.join(pairs.keys)
        width = told.embed_dim + (0 if self._other is None else sum(self._other.widths))
        self.writer = SidecarWriter(work / "package" / ROWS, "float16", (self._cache.views + 2, width))

    def count_missing(self) -> int:
        """Count the shards that no process has finished yet."""
        return len(self.names) - len(self.writer.done_shards())

    def run(self, export: Path, share: Share, machine: MachineConfig, stage: Stage) -> None:
        """Embed this process's share of the captions, and when all are there, of the views; nothing twice."""
        done = {*self.writer.done_shards()}
        if len(done) == len(self.names):
            return
        encoder = load_encoder(export, machine, self._batch_size, stage, share.local_rank)
        self._texts.encode(encoder.text, share, stage)
        todo = share.of(range(len(self.names)))
        left = [shard for shard in todo if self.names[shard] not in done]
        if not left:
            return
        self._texts.open(stage)
        views = self._cache.views + 1
        batches = shard_batches(self._ranges, left, max(self._batch_size // views, 1))
        total, ahead = (sum(len(self._ranges[shard]) for shard in shards) for shards in (todo, left))
        items = TeacherViews(self._pairs, self._cache, self._told.image_size)
        read = read_batches(self._pairs, items, batches, machine.workers)
        with stage.progress("embed views", total, "pair", total - ahead) as progress:
            encoded = encoder.encode_images(prepared(read, self._cache, self._told))
            flat = (features.image_features for features in encoded)
            parts = (rows.reshape(-1, views, rows.shape[-1]) for rows in flat)
            for shard, image_features in whole_shards(parts, batches, self._ranges, progress):
                self._write(shard, image_features)

    def _write(self, shard: int, image_features: npt.NDArray[np.float32]) -> None:
        """Write the rows of a shard, whose views have become features, [n, K + 1, D]."""
        places = self._ranges[shard]
        text_features = self._texts.rows(places)[:, None]  # [n, 1, D]
        rows: npt.NDArray[Any] = np.concatenate([image_features, text_features], axis=1).astype(np.float16)
        if self._other is not None and self._places is not None:
            before = self._other.stored(self._places[places.start : places.stop])
            rows = np.concatenate([before, rows], axis=2)  # [n, K + 2, sum D]
        self.writer.write_shard(self.names[shard], self._pairs.keys.slice(places.start, len(places)), rows)
