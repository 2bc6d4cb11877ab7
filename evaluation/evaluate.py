"""Stage ``evaluate``: score one exported model with every configured evaluator."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a model is scored on.

    Attributes:
        params: The params.yaml, for ``machine`` and the store of shards that are URLs.
        model: The exported model, from ``pretrain``.
        raw: The data set, from ``ingest``.
        valid: The accepted keys, from ``validate``.
        external: Folder of the sets that ``evaluation.external`` names.
    """

    params: Path
    model: Path
    raw: Path
    valid: Path
    external: Path = EXTERNAL


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
    config = load_evaluation(params)
    scoring = Scoring(config, Inputs(params, model, raw, valid, external))
    with Stage(f"evaluate@{name}") as stage:
        results = scoring.run(name, out, stage)
        stage.send(flatten({key: result.metrics for key, result in results.items()}), force=True)


def load_evaluation(params: Path) -> EvaluationConfig:
    """Read the section ``evaluation``."""
    return parse(EvaluationConfig, read_sections(params)["evaluation"], f"{params}: evaluation")


class Scoring:
    """The scoring of one model by the evaluators of a config: checked when it is made, done when it is run.

    Attributes:
        versions: Name of an input -> its version, as the manifest of the report lists them.
    """

    def __init__(self, config: EvaluationConfig, inputs: Inputs) -> None:
        """Check everything that can be checked before work.

        Args:
            config: The section ``evaluation``, or a part of it (:func:`part_of`).
            inputs: The model and the data.

        Raises:
            ConfigError: A wrong value in params.yaml.
            DataError: An input is missing, unfinished, of another kind or does not fit the others.
        """
        self._config, self._inputs = config, inputs
        self._machine = load_machine(inputs.params)
        self._planned = plan_sets(config, inputs.external)
        self.versions = _check_inputs(inputs.model, inputs.raw, inputs.valid) | set_inputs(self._planned)

    def run(self, name: str, out: Path, stage: Stage) -> dict[str, Result]:
        """Score the model and publish its report folder.

        Args:
            name: Of the model, for the manifest.
            out: The folder to publish.
            stage: For progress and warnings.

        Returns:
            Evaluator name -> what it found.
        """
        config, inputs = self._config, self._inputs
        bootstrap = Bootstrap(config.bootstrap.resamples, config.bootstrap.seed)
        evaluators = {
            key: evaluator_class(key)(evaluator_config(key, values), bootstrap)
            for key, values in config.evaluators.items()
        }
        encoder = load_encoder(inputs.model, self._machine, config.batch_size, stage)
        batches = Batches(config.batch_size, self._machine.workers)
        features = extract(encoder, inputs.raw, inputs.valid, all_needs(evaluators), batches, stage, inputs.params)
        results = {key: evaluator.run(features) for key, evaluator in evaluators.items()}
        join_results(results, score_sets(self._planned, config, encoder, batches, stage))
        for key, result in results.items():
            if not any(features.with_role(role) for role in evaluators[key].needs):
                needs = " or ".join(evaluators[key].needs)
                stage.log.warning("%s: %s has no split of role %s", inputs.raw, key, needs)
            for note in result.notes:
                stage.log.warning("%s: %s", key, note)
        with atomic_folder(out) as folder:
            write_results(folder, results)
            counts = {f"images_{split.split}": len(split.keys) for split in features.splits}
            counts |= {f"images_external_{key}": len(one.external.keys) for key, one in self._planned.items()}
            plain = config.model_dump(mode="json")
            write_manifest(folder, "report", name, plain, counts, self.versions, evaluation_code())
        return results


def part_of(config: EvaluationConfig, metrics: Collection[str]) -> EvaluationConfig:
    """Return the config of only what measures some metrics; it gives the same numbers for them.

    Args:
        config: The section ``evaluation``.
        metrics: Dotted names: evaluator, suite, name.
    """
    wanted = {(parts[0], parts[1]) for parts in (metric.split(".") for metric in metrics)}
    evaluators = {key: values for key, values in config.evaluators.items() if any(key == one for one, _ in wanted)}
    sets = {
        name: [key for key in external.evaluators if (key, name) in wanted]
        for name, external in config.external.items()
    }
    external = {
        name: config.external[name].model_copy(update={"evaluators": tuple(keys)})
        for name, keys in sets.items()
        if keys
    }
    return config.model_copy(update={"evaluators": evaluators, "external": external})


def evaluation_code() -> str:
    """Return the digest of the code that reports come from."""
    return code_digest(*entry_modules())


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
