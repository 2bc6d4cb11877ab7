"""Stage ``evaluate``: score one exported model with every configured evaluator."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from assets.atomic import atomic_folder, write_json
from assets.code_stamp import code_digest
from assets.config import load_machine, read_sections
from assets.errors import DataError, message
from assets.index import write_table
from assets.manifest import read_manifest, version_of, write_manifest
from assets.progress import Stage
from assets.section import parse
from evaluation.base import Evaluator, Result, entry_modules, evaluator_class, evaluator_config
from evaluation.config import EvaluationConfig
from evaluation.encoder import load_encoder
from evaluation.external.config import EXTERNAL
from evaluation.external.score import join_results, plan_sets, score_sets, set_inputs
from evaluation.features import Batches, extract
from evaluation.intervals import Bootstrap
from evaluation.nested import flatten, rounded


def evaluate(
    name: str, params: Path, model: Path, raw: Path, valid: Path, out: Path, external: Path = EXTERNAL
) -> None:
    """Score one model and publish its report folder.

    Args:
        name: Key in ``runs``; names the report.
        params: The params.yaml to read; sections ``evaluation`` and ``machine``.
        model: The exported model, from ``pretrain``.
        raw: The data set, from ``ingest``.
        valid: The accepted keys, from ``validate``.
        out: The folder to publish: metrics.json, intervals.json, the evaluators' tables and documents, manifest.json.
        external: Folder of the sets that ``evaluation.external`` names.

    Raises:
        ConfigError: A wrong value in params.yaml, before any work.
        DataError: An input is missing, unfinished, of another kind or does not fit the others.
    """
    config = parse(EvaluationConfig, read_sections(params)["evaluation"], f"{params}: evaluation")
    machine = load_machine(params)
    planned = plan_sets(config, external)
    inputs = _check_inputs(model, raw, valid) | set_inputs(planned)
    bootstrap = Bootstrap(config.bootstrap.resamples, config.bootstrap.seed)
    evaluators = {
        key: evaluator_class(key)(evaluator_config(key, values), bootstrap) for key, values in config.evaluators.items()
    }
    with Stage(f"evaluate@{name}") as stage:
        encoder = load_encoder(model, machine, config.batch_size, stage)
        batches = Batches(config.batch_size, machine.workers)
        features = extract(encoder, raw, valid, all_needs(evaluators), batches, stage, params)
        results = {key: evaluator.run(features) for key, evaluator in evaluators.items()}
        join_results(results, score_sets(planned, config, encoder, batches, stage))
        for key, result in results.items():
            if not any(features.with_role(role) for role in evaluators[key].needs):
                stage.log.warning("%s: %s has no split of role %s", raw, key, " or ".join(evaluators[key].needs))
            for note in result.notes:
                stage.log.warning("%s: %s", key, note)
        with atomic_folder(out) as folder:
            write_results(folder, results)
            counts = {f"images_{split.split}": len(split.keys) for split in features.splits}
            counts |= {f"images_external_{key}": len(one.external.keys) for key, one in planned.items()}
            plain = config.model_dump(mode="json")
            write_manifest(folder, "report", name, plain, counts, inputs, code_digest(*entry_modules()))
        stage.send(flatten({key: result.metrics for key, result in results.items()}), force=True)


def _check_inputs(model: Path, raw: Path, valid: Path) -> dict[str, str]:
    """Return the versions of the input folders after checking that each is what it should be and that they fit."""
    read_manifest(model, "model")
    version = version_of(raw)
    read_manifest(raw, "raw")
    validated = read_manifest(valid, "valid")["inputs"].get("raw", version)
    if validated != version:
        raise DataError(
            message(f"{valid} validates another version of {raw}", validated, version, 'rerun "dvc repro validate"')
        )
    return {"model": version_of(model), "raw": version, "valid": version_of(valid)}


def all_needs(evaluators: Mapping[str, Evaluator]) -> dict[str, frozenset[str]]:
    """Join what evaluators need: split role -> everything some evaluator wants of it."""
    joined: dict[str, frozenset[str]] = {}
    for evaluator in evaluators.values():
        for role, wanted in evaluator.needs.items():
            joined[role] = joined.get(role, frozenset()) | wanted
    return joined


def write_results(folder: Path, results: Mapping[str, Result]) -> None:
    """Write what the evaluators found, numbers rounded so that the last bits of a sum do not change the bytes.

    Args:
        folder: An existing folder.
        results: Evaluator name -> result.
    """
    write_json(folder / "metrics.json", rounded({key: result.metrics for key, result in results.items()}))
    write_json(folder / "intervals.json", rounded({key: result.intervals for key, result in results.items()}))
    for result in results.values():
        for stem, rows in result.tables.items():
            write_table(pa.Table.from_pylist(rounded(rows)), folder / f"{stem}.parquet")
        for stem, document in result.documents.items():
            write_json(folder / f"{stem}.json", rounded(document))
