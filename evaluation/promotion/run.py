"""Stage ``challenge``: may the model of a run take the place of the champion?

The stage only decides: the same files in give the same files out. ``clipfoundry promote`` acts on what it says.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assets.atomic import atomic_folder, write_json, write_text
from assets.code_stamp import code_digest
from assets.manifest import write_manifest
from assets.progress import Stage
from evaluation.evaluate import load_evaluation
from evaluation.nested import flatten, rounded
from evaluation.paired import Difference, UnitScores, compare_pairs
from evaluation.promotion.champions import read_history
from evaluation.promotion.config import PromotionConfig
from evaluation.promotion.draw import figure_svg
from evaluation.promotion.page import Findings, render_promotion
from evaluation.promotion.present import (
    Challenger,
    Folders,
    data_errors,
    export_faults,
    plan_champion,
    read_challenger,
)
from evaluation.promotion.rules import Facts, decide
from evaluation.results import read_json
from evaluation.unit_scores import run_scores

_MODULE = "evaluation.promotion.run"
_CHAMPION = "champion"


@dataclass(frozen=True, slots=True)
class _Scored:
    """The champion on the present data: all its metrics, and its difference from the challenger."""

    metrics: Mapping[str, float]
    difference: Difference | None


def challenge(name: str, config: PromotionConfig, folders: Folders, params: Path) -> None:
    """Decide on a challenger and publish the decision.

    Args:
        name: Key in ``promotions``.
        config: The promotion.
        folders: Challenger, champion and data, and the folder to publish: ``decision.json``, ``checks.json``,
            ``index.html``, ``figure.svg``, the report ``champion/`` where one was scored, and ``manifest.json``.
        params: The file params.yaml; sections ``evaluation`` and ``machine``.

    Raises:
        ConfigError: A wrong value in params.yaml, before any work.
        DataError: An input is missing, unfinished, or not of the same model, data or code as the others.
    """
    evaluation = load_evaluation(params)
    challenger = read_challenger(config, evaluation, folders, params)
    history = read_history(folders.champions, name)
    errors, faults = data_errors(folders.validation, config.dataset), export_faults(folders.model)
    champion = history.champion
    other = champion is not None and champion.model != challenger.model
    planned = plan_champion(config, evaluation, folders, params, history) if other else None
    with Stage(f"challenge@{name}") as stage, atomic_folder(folders.out) as folder:
        scored: _Scored | None = None
        if planned is not None:
            planned.run(f"{name} {history.current}", folder / _CHAMPION, stage)
            scored = _read_scored(config, challenger, folder / _CHAMPION)
        elif champion is not None:
            scored = _Scored(challenger.metrics, None)
        facts = Facts(
            model=challenger.model,
            scores=_named(config, challenger.metrics),
            data_errors=errors,
            export_faults=faults,
            barred=history.barred,
            champion=champion,
            champion_scores=None if scored is None else _named(config, scored.metrics),
            difference=None if scored is None else scored.difference,
        )
        decision = decide(config, facts)
        found = Findings(
            name, config, facts, decision, history, challenger.metrics, {} if scored is None else scored.metrics
        )
        _write(folder, found, challenger)
        stage.log.info("%s: %s", decision.verdict, decision.reason)
        stage.send({"verdict": decision.verdict, "reason": decision.reason}, force=True)


def _read_scored(config: PromotionConfig, challenger: Challenger, report: Path) -> _Scored:
    """Read the report of the champion, and compare it in pairs."""
    units = run_scores(config.metric, report)
    difference = None if units is None else _compare(challenger.units, units)
    # rounded in the file as the challenger's are in its own
    return _Scored(flatten(read_json(report / "metrics.json")), difference)


def _compare(challenger: UnitScores, champion: UnitScores) -> Difference:
    labels = "the challenger", "the champion"
    return compare_pairs(dict(zip(labels, (challenger, champion), strict=True)), [labels])[0]


def _named(config: PromotionConfig, metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics that the promotion names; one that a model lacks is no number, and fails its rule."""
    return {metric: metrics.get(metric, math.nan) for metric in config.metrics}


def _write(folder: Path, found: Findings, challenger: Challenger) -> None:
    """Write everything but the champion's report."""
    checks = [rule.as_json() for rule in found.decision.rules]
    write_json(folder / "checks.json", checks)
    write_json(folder / "decision.json", as_json(found, challenger.versions))
    write_text(folder / "figure.svg", figure_svg(found.config, found.facts, found.decision))
    write_text(folder / "index.html", render_promotion(found))
    counts = {"rules": len(checks), "broken": sum(not check["passed"] for check in checks)}
    inputs = {"model": challenger.model, "valid": challenger.versions["data"], "report": challenger.versions["report"]}
    if (champion := found.facts.champion) is not None:
        inputs["champion"] = champion.model
    plain = found.config.model_dump(mode="json")
    write_manifest(folder, "promotion", found.name, plain, counts, inputs, code_digest(_MODULE))


def as_json(found: Findings, versions: Mapping[str, str]) -> dict[str, Any]:
    """Return the decision as ``decision.json`` holds it.

    Args:
        found: All that was found.
        versions: ``data`` and ``evaluation`` of the challenger's report.
    """
    config, facts, decision = found.config, found.facts, found.decision
    champion, scores = facts.champion, facts.champion_scores
    difference = facts.difference
    main: dict[str, Any] = {
        "metric": config.metric,
        "challenger": facts.scores[config.metric],
        "champion": None if scores is None else scores[config.metric],
        **{key: None if difference is None else getattr(difference, key) for key in ("low", "high", "p")},
        "difference": None if difference is None else difference.value,
    }
    value = {
        "promotion": found.name,
        "run": config.run,
        "dataset": config.dataset,
        "verdict": decision.verdict,
        "reason": decision.reason,
        "challenger": {
            "model": facts.model,
            "data": versions["data"],
            "evaluation": versions["evaluation"],
            "scores": dict(facts.scores),
        },
        "champion": None
        if champion is None
        else {"version": champion.version, "run": champion.run, "model": champion.model, "scores": dict(scores or {})},
        "main": main,
        "rules": [rule.as_json() for rule in decision.rules],
    }
    return _finite(rounded(value))


def _finite(value: Any) -> Any:
    """Put None for what is no number, which JSON cannot say."""
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
