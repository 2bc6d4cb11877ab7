"""What stands on disk of a challenger and its champion, read and checked before any work."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assets.errors import ConfigError, DataError, message
from assets.manifest import read_manifest, value_digest, verify_manifest, version_of
from assets.section import unknown
from evaluation.config import EvaluationConfig
from evaluation.evaluate import Inputs, Scoring, evaluation_code, part_of
from evaluation.nested import flatten
from evaluation.paired import UnitScores
from evaluation.promotion.champions import History
from evaluation.promotion.config import PromotionConfig
from evaluation.results import is_score, read_json
from evaluation.unit_scores import has_units, run_scores
from training.models.export_files import CONFIG_FILE, OWN_CONFIG_FILE

CHECKS = "checks.json"


@dataclass(frozen=True, slots=True)
class Folders:
    """Where everything is.

    Attributes:
        model: The challenger, ``models/R``.
        report: What ``evaluate`` found of it, ``reports/runs/R``.
        champion: The champion, ``models/N``; need not exist while there is none.
        raw: The data set, from ``ingest``.
        valid: The accepted keys, from ``validate``.
        validation: What the rules for the data found, ``reports/validation/D``.
        external: Folder of the sets that ``evaluation.external`` names.
        champions: Holds the histories.
        out: The folder to publish, ``reports/promotion/N``.
    """

    model: Path
    report: Path
    champion: Path
    raw: Path
    valid: Path
    validation: Path
    external: Path
    champions: Path
    out: Path


@dataclass(frozen=True, slots=True)
class Challenger:
    """The challenger as its report knows it.

    Attributes:
        model: Version of the export.
        metrics: Dotted name -> value, all of the report.
        units: Scores of every unit by the main metric.
        versions: ``data`` and ``evaluation``, as the leaderboard gives them; ``report``.
    """

    model: str
    metrics: dict[str, float]
    units: UnitScores
    versions: dict[str, str]


def read_challenger(
    config: PromotionConfig, evaluation: EvaluationConfig, folders: Folders, params: Path
) -> Challenger:
    """Read the report of the challenger and check that it is of what there is now.

    Args:
        config: The promotion.
        evaluation: The section ``evaluation``.
        folders: Where the report, the model and the data are.
        params: The file params.yaml.

    Raises:
        ConfigError: A metric of the promotion was not measured, or the main one cannot be compared in pairs.
        DataError: The report is missing, or of another model, other data, other settings or other code.
    """
    manifest = read_manifest(folders.report, "report")
    present: dict[str, str] = {
        **Scoring(evaluation, _inputs(folders.model, folders, params)).versions,
        "settings": value_digest(evaluation.model_dump(mode="json")),
        "code": evaluation_code(),
    }
    scored = {**manifest["inputs"], "settings": manifest["config_digest"], "code": manifest["code"]}
    for fact, version in present.items():
        if (got := scored.get(fact, "nothing")) != version:
            what = f"{folders.report} was made with another version of {fact}"
            raise DataError(message(what, got, version, f'evaluate anew: "dvc repro evaluate@{config.run}"'))
    metrics: dict[str, float] = flatten(read_json(folders.report / "metrics.json"))
    _check_metrics(config, metrics)
    units = run_scores(config.metric, folders.report)
    if units is None:
        raise DataError(message(f"{folders.report} lacks the single scores of {config.metric}", fix="evaluate anew"))
    versions = {
        "data": present["valid"],
        "evaluation": f"{present['settings']}-{present['code']}",
        "report": version_of(folders.report),
    }
    return Challenger(present["model"], metrics, units, versions)


def _inputs(model: Path, folders: Folders, params: Path) -> Inputs:
    return Inputs(params, model, folders.raw, folders.valid, folders.external)


def _check_metrics(config: PromotionConfig, metrics: Mapping[str, float]) -> None:
    """Refuse metrics that the report lacks, and a main metric that has no scores of single units."""
    where = f"promotion of run {config.run}"
    measured = [name for name in metrics if is_score(name)]
    for metric in config.metrics:
        if metric not in measured:
            raise ConfigError(f"{where}: {unknown(metric, measured, 'metric')}")
    if not has_units(config.metric):
        wanted = ", ".join(name for name in measured if has_units(name)) or "none of those measured"
        what = f"{where}: metric cannot be compared in pairs, as no scores of single images or queries are kept"
        raise ConfigError(message(what, config.metric, f"one of {wanted}", "put it under slices or floors instead"))


def plan_champion(
    config: PromotionConfig, evaluation: EvaluationConfig, folders: Folders, params: Path, history: History
) -> Scoring:
    """Check the champion and plan to score it by the metrics of the promotion alone.

    Args:
        config: The promotion.
        evaluation: The section ``evaluation``.
        folders: Where the champion and the data are.
        params: The file params.yaml.
        history: Has a champion.

    Raises:
        DataError: The folder of the champion is missing or holds another model.
    """
    champion = history.champion
    assert champion is not None
    name = history.name
    fix = f'run "dvc pull models/{name}.dvc"'
    if not folders.champion.is_dir():
        raise DataError(message(f"{folders.champion}, champion {name}, is not on this machine", fix=fix))
    if (got := version_of(folders.champion)) != champion.model:
        what = f"{folders.champion} is not version {champion.version} of champion {name}"
        raise DataError(message(what, got, champion.model, fix))
    return Scoring(part_of(evaluation, config.metrics), _inputs(folders.champion, folders, params))


def data_errors(validation: Path, dataset: str) -> tuple[str, ...]:
    """Return the names of the rules of severity error that the data broke.

    Args:
        validation: The folder with checks.json.
        dataset: Name of the data set.

    Raises:
        DataError: There is no such list.
    """
    path, fix = validation / CHECKS, f'run "dvc repro validate@{dataset}"'
    try:
        checks: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return tuple(str(check["name"]) for check in checks if check["severity"] == "error" and not check["passed"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"{path} is no list of checks ({type(error).__name__}: {error})"
        raise DataError(message(what, fix=fix)) from error


def export_faults(model: Path) -> tuple[str, ...]:
    """Say what is wrong with the files of an exported model, one sentence each.

    Args:
        model: A finished folder of the kind ``model``.
    """
    faults = verify_manifest(model)
    if not any((model / name).is_file() for name in (CONFIG_FILE, OWN_CONFIG_FILE)):
        faults.append(f"neither {CONFIG_FILE} nor {OWN_CONFIG_FILE} is there")
    return tuple(faults)
