"""Stage ``study``: what many runs say together, as a page, a figure and tables."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assets.atomic import atomic_folder, write_json, write_text
from assets.code_stamp import code_digest
from assets.errors import DataError, message
from assets.manifest import write_manifest
from assets.progress import Stage
from evaluation.nested import rounded
from evaluation.studies.config import StudyConfig
from evaluation.studies.draw import figure_svg
from evaluation.studies.levels import Members, find_members
from evaluation.studies.metrics import panels
from evaluation.studies.page import Findings, render_study
from evaluation.studies.read import Report, read_reports
from evaluation.studies.reading import claims, head_readings, readings
from evaluation.studies.trends import Trend, all_trends, head_gains

_MODULE = "evaluation.studies.run"


@dataclass(frozen=True, slots=True)
class Folders:
    """Where results are and go.

    Attributes:
        reports: Holds ``R/`` of ``evaluate``.
        out: The folder to publish.
        plots: The folder of what DVC plots: one file per metric, with the mean at every level of noise.
    """

    reports: Path
    out: Path
    plots: Path


def study(name: str, config: StudyConfig, folders: Folders, params: Path) -> None:
    """Compare the runs of a study and publish what they say.

    Args:
        name: Key in ``studies``.
        config: The study.
        folders: Reports of the runs, and the folder to publish: ``index.html``, ``figure.svg``, ``study.json`` and
            ``manifest.json``.
        params: The file params.yaml; sections ``runs`` and ``policies``.

    Raises:
        ConfigError: The runs are not those of a study, see :func:`evaluation.studies.levels.find_members`.
        DataError: Reports are missing or do not belong together, or hold no metric that a study follows.
    """
    members = find_members(name, config, params)
    reports = read_reports(members.members, folders.reports)
    found = find(members, reports)
    with Stage(f"study@{name}") as stage:
        for note in found.notes:
            stage.log.warning("left out: %s", note)
        with atomic_folder(folders.out) as folder:
            write_text(folder / "index.html", render_study(config, found))
            write_text(folder / "figure.svg", figure_svg(found.panels, found.trends, config.title))
            write_json(folder / "study.json", rounded(as_json(config, found)))
            counts = {"runs": len(reports), "levels": len(members.shares), "metrics": len(found.trends)}
            plain = config.model_dump(mode="json") | {"noise": {member.run: member.share for member in members.members}}
            inputs = {f"report of {report.member.run}": report.versions["report"] for report in reports}
            write_manifest(folder, "study", name, plain, counts, inputs, code_digest(_MODULE))
        with atomic_folder(folders.plots) as folder:
            for metric, trend in found.trends.items():
                write_text(folder / f"{metric}.tsv", levels_table(trend))
        for sentence in head_readings(found.gains, reports):
            stage.log.info("%s", sentence)
        stage.send(counts, force=True)


def find(members: Members, reports: Sequence[Report]) -> Findings:
    """Work out what the runs say.

    Args:
        members: The runs.
        reports: The report of every one.

    Raises:
        DataError: No run has any metric that a study follows.
    """
    shown, notes = panels({metric for report in reports for metric in report.metrics})
    metrics = [line.metric for panel in shown for line in panel.lines]
    if not metrics:
        fix = "add zero_shot, linear_probe, tuning, spectra or retrieval to evaluation.evaluators and evaluate anew"
        raise DataError(message(f"no run of the study has a metric that it follows: {'; '.join(notes)}", fix=fix))
    for metric in metrics:
        if lacking := [report.member.run for report in reports if metric not in report.metrics]:
            notes.append(f"{metric} of {', '.join(lacking)}, which lack it")
    notes += [f"run {run}, as {reason}" for run, reason in members.left_out.items()]
    return Findings(members, reports, shown, all_trends(reports, metrics), head_gains(reports), notes)


def levels_table(trend: Trend) -> str:
    """Return the means of a metric as tab-separated values: a row per level of noise that has it.

    Args:
        trend: Of the metric.
    """
    rows = [f"{level.share:g}\t{level.mean.value:.6f}\n" for level in trend.levels]
    return f"noise\t{trend.metric.rpartition('.')[2]}\n" + "".join(rows)


def as_json(config: StudyConfig, found: Findings) -> dict[str, Any]:
    """Return all numbers of a study with the sentences of its page.

    Args:
        config: The study.
        found: What it found.
    """
    return {
        **config.model_dump(mode="json"),
        "runs": {
            report.member.run: {"noise": report.member.share, "seed": report.member.seed, "versions": report.versions}
            for report in found.reports
        },
        "trends": {metric: dataclasses.asdict(trend) for metric, trend in found.trends.items()},
        "heads": [dataclasses.asdict(gain) for gain in found.gains],
        "claims": [claim._asdict() for claim in claims(found.trends)],
        "reading": [*readings(found.panels, found.trends), *head_readings(found.gains, found.reports)],
        "notes": list(found.notes),
    }
