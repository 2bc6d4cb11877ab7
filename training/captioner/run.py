"""Stage ``captioner``: train a captioner on the accepted pairs, then describe each of them by codes and a caption.

Published folder: ``model/`` (the captioner), ``codes/`` (a sidecar, uint16 rows [L]), ``codebook.npy`` (float32
[K, d]), ``captions.parquet`` (key, caption, mean_log_probability, likelihood), ``curves.jsonl``
and the manifest.
"""

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from assets.atomic import atomic_folder, write_text
from assets.code_stamp import code_digest
from assets.config import MachineConfig
from assets.errors import ConfigError, message
from assets.index import write_table
from assets.manifest import file_digest, read_manifest, value_digest, version_of, write_manifest
from assets.progress import Stage
from assets.row_files import write_array
from assets.shard_cache import ShardCache
from training.captioner.config import CaptionerConfig
from training.captioner.describe import Describer
from training.captioner.fit import CURVES, CaptionerFit, FitPlace
from training.captioner.method import Captioner
from training.captioner.model import WEIGHTS_FILE, load_captioner_model, new_model, save_captioner
from training.captioner.vocabulary import used_tokens
from training.config import check_batch
from training.data.holdout import hold_out, whole_images
from training.data.loader import StepDataset, ViewPlan
from training.data.order import SampleOrder
from training.data.pairs import Pairs, check_cache, load_pairs
from training.data.tokens import CaptionTokenizer
from training.engine.checkpoint import whole
from training.engine.distributed import World, rank, world
from training.engine.metrics import ROWS, read_rows
from training.engine.optim import count_parameters

KIND = "captioned"
MODEL = "model"
CODES = "codes"
CODEBOOK = "codebook.npy"
CAPTIONS = "captions.parquet"


@dataclass(frozen=True, slots=True)
class Folders:
    """Folders of the stage.

    Attributes:
        raw: From ``ingest``.
        valid: From ``validate``.
        export: The model whose image tower the captioner's starts as, or None.
        out: What is published.
        work: Where unfinished work waits.
    """

    raw: Path
    valid: Path
    export: Path | None
    out: Path
    work: Path


@dataclass(frozen=True, slots=True)
class _Job:
    """One captioner, resolved.

    Attributes:
        name: Its key in ``captioners``.
        config: Its entry.
        code: Digest of the code in use.
        inputs: Versions of the input folders.
        export: The model whose image tower comes first, or None.
        folder: Where it lives until it is published.
    """

    name: str
    config: CaptionerConfig
    code: str
    inputs: dict[str, str]
    export: Path | None
    folder: Path


def make_captioned(
    name: str, config: CaptionerConfig, folders: Folders, machine: MachineConfig, cache: ShardCache | None = None
) -> None:
    """Train a captioner and describe the accepted training pairs of its data set.

    Under torchrun every process trains on its share and describes its share; the first one puts the folder together.

    Args:
        name: Of the entry in params.yaml.
        config: The entry.
        folders: Where things are and go.
        machine: Threads, device and workers.
        cache: Knows the object store, for shards that lie in one.

    Raises:
        ConfigError: The budget or the held-out pairs do not fit the data or the processes, or the image tower not the
            model's.
        DataError: An input folder is missing, unfinished or holds no accepted pair.
    """
    read_manifest(folders.raw, "raw")
    read_manifest(folders.valid, "valid")
    inputs = {"raw": version_of(folders.raw), "valid": version_of(folders.valid)}
    if folders.export is not None:
        read_manifest(folders.export, "model")
        inputs["model"] = version_of(folders.export)
    code = code_digest("training.captioner.run")
    digest = value_digest({"config": config.model_dump(mode="json"), "code": code, "inputs": inputs})
    job = _Job(name, config, code, inputs, folders.export, folders.work / "captioner" / name / digest)
    with Stage(f"captioner@{name}", quiet=rank() > 0) as stage, world(machine) as here:
        pairs = replace(load_pairs(folders.raw, folders.valid), cache=cache)
        if not (job.folder / MODEL).is_dir():
            _train(job, pairs, machine, here, stage)
        if here.size > 1:
            dist.barrier()  # the main process writes the model
        model, _, holdout = load_captioner_model(job.folder / MODEL)
        describer = Describer(model.to(here.device), config, pairs, job.folder)
        describer.run(here, machine.workers, stage)
        if here.is_main:
            describer.wait(stage)
            _publish(job, describer, holdout, folders.out)
            shutil.rmtree(job.folder)
            stage.log.info("%s: %d pairs described in %s", stage.name, len(pairs), folders.out)


def _train(job: _Job, pairs: Pairs, machine: MachineConfig, here: World, stage: Stage) -> None:
    """Train on all pairs but the held-out ones, and leave the captioner in the work folder."""
    config = job.config
    check_cache(pairs, config.shuffle_window)
    if len(pairs) <= config.holdout.pairs:
        wanted = f"fewer than the {len(pairs)} pairs"
        raise ConfigError(message("holdout.pairs leaves nothing to train on", config.holdout.pairs, wanted))
    training, held_out = hold_out(pairs, config.holdout.pairs)
    check_batch(config.budget, len(training), here.size)
    tokenize = CaptionTokenizer(config.decoder.context_length).encode
    model = new_model(config, used_tokens(pairs.captions, tokenize), job.export)
    views = ViewPlan({"image": config.views}, tokenize, config.image_size, config.seed, trim=True)
    order = SampleOrder(
        len(training), config.budget.batch_size, config.seed, training.shard_sizes, config.shuffle_window
    )
    captioner = Captioner(config, model)
    stage.log.info(
        "%s: %d pairs, %d steps of %d, %.1f M parameters, %d tokens, %d process(es) on %s",
        *(stage.name, len(training), config.budget.steps, config.budget.batch_size),
        *(count_parameters(captioner) / 1e6, len(model.vocabulary), here.size, here.device),
    )
    place = FitPlace(job.folder, here, machine.workers, machine.tensorboard)
    fit = CaptionerFit(captioner, place, whole_images(held_out, views))
    scores = fit.run(StepDataset(training, order, views, here.rank, here.size), stage)
    stage.log.info("%s: held-out pairs: %s", stage.name, scores)
    if here.is_main:
        tensors = {key: whole(value) for key, value in captioner.model.state_dict().items()}
        with atomic_folder(job.folder / MODEL) as partial:
            save_captioner(tensors, config, scores, partial)
        shutil.rmtree(job.folder / "checkpoints", ignore_errors=True)


def _publish(job: _Job, describer: Describer, holdout: dict[str, float], out: Path) -> None:
    """Put the folder together and publish it."""
    config, work = job.config, job.folder
    captions = describer.captions()
    facts: dict[str, Any] = {
        "entry": config.model_dump(mode="json"),
        "model": file_digest(work / MODEL / WEIGHTS_FILE)[:16],
        "codes": {"length": config.code_length, "size": config.codebook.size, "width": config.codebook.width},
        "holdout": holdout,
        "library": {"torch": torch.__version__},
    }
    describer.codes.finish(describer.shards, job.name, facts, job.inputs, job.code)
    with atomic_folder(out) as partial:
        shutil.copytree(work / MODEL, partial / MODEL)
        shutil.copytree(describer.codes.folder, partial / CODES, copy_function=os.link)  # gigabytes for large pools
        write_array(partial / CODEBOOK, describer.codebook)
        write_table(captions.combine_chunks(), partial / CAPTIONS)
        write_text(partial / "curves.jsonl", _curves(work / CURVES / ROWS))
        counts = {"pairs": len(captions), "codes": config.codebook.size, "steps": config.budget.steps}
        write_manifest(partial, KIND, job.name, {"stage": facts}, counts, job.inputs, job.code)


def _curves(path: Path) -> str:
    """Return the curves of training without those of speed, which differ from run to run."""
    rows = [{name: value for name, value in row.items() if not name.startswith("perf/")} for row in read_rows(path)]
    return "".join(json.dumps(row) + "\n" for row in rows)
