"""Stage ``concept_report``: how accuracy goes with the frequency of concepts in training, for every run of a data set.

It publishes ``index.html``, and for programs ``fits.json`` (group -> measure -> fit -> numbers; ``fits_SIDE.json`` for
counts of other sides) and ``metrics.json`` (the few numbers worth following). For DVC to plot there is a table with
count and accuracy of every concept, of the group with the best mean.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from assets.atomic import atomic_folder, write_json, write_text
from assets.code_stamp import code_digest
from assets.concepts.config import ConceptsConfig
from assets.concepts.folder import KIND as CONCEPTS_KIND
from assets.concepts.folder import Hits, read_concepts, read_hits, read_summary
from assets.errors import DataError
from assets.manifest import read_manifest, version_of, write_manifest
from assets.progress import Stage
from assets.reduction.config import NONE as NO_POLICY
from evaluation.concepts.analysis import GroupReport, analyse, few_numbers, fits_as_json
from evaluation.concepts.fits import Counts
from evaluation.concepts.page import Facts, render
from evaluation.concepts.report_config import KIND, RunGroup, load_bootstrap, load_groups
from evaluation.concepts.trained import (
    SIDES,
    Frequencies,
    Measure,
    frequencies,
    read_measures,
    read_plan_of,
)
from evaluation.intervals import Bootstrap
from evaluation.nested import rounded

_DATA = ("raw", "valid")


@dataclass(frozen=True, slots=True)
class Folders:
    """Folders of the stage.

    Attributes:
        concepts: From ``concepts``, the folder of the entry.
        reduced: Holds ``P/`` of ``reduce``.
        reports: Holds ``R/`` of ``evaluate``.
        out: What is published.
        plots: The table that DVC plots.
    """

    concepts: Path
    reduced: Path
    reports: Path
    out: Path
    plots: Path


@dataclass(frozen=True, slots=True)
class _Read:
    """What was read of a group."""

    group: RunGroup
    frequencies: Frequencies
    measures: Mapping[str, Measure]
    notes: Sequence[str]


def report_concepts(name: str, config: ConceptsConfig, folders: Folders, params: Path) -> None:
    """Write the report of an entry of ``concepts``.

    Args:
        name: Of the entry in params.yaml.
        config: The entry.
        folders: Where things are and go.
        params: The params.yaml; sections ``runs``, ``recipes`` and ``evaluation``.

    Raises:
        ConfigError: No run is of the data set, or a value is wrong.
        DataError: A folder is missing, unfinished or of another version of the data; a run is not evaluated, or without
            zero-shot classes; or no class is among the concepts.
    """
    groups, bootstrap = load_groups(params, config.dataset), load_bootstrap(params)
    made_of = read_manifest(folders.concepts, CONCEPTS_KIND)["inputs"]
    data = {kind: made_of[kind] for kind in _DATA}
    table, hits = read_concepts(folders.concepts), read_hits(folders.concepts)
    with Stage(f"concept_report@{name}") as stage:
        read = _read_all(groups, folders, hits, table.names, data)
        pools: Counts = np.unique(np.array(table.groups), return_inverse=True)[1].astype(np.int64)
        reports: list[GroupReport] = []
        with stage.progress("fit", len(read), "group") as progress:
            for one in read:
                reports.append(analyse(one.group, one.frequencies, one.measures, pools, one.notes, bootstrap))
                progress.advance()
        reports.sort(key=lambda report: (-report.mean, report.group.label))
        for report in reports:
            for note in report.notes:
                stage.log.info("%s: %s: %s", stage.name, report.group.label, note)
        inputs = _inputs(groups, folders)
        facts = Facts(name, config.dataset, table, read_summary(folders.concepts), inputs)
        _publish(name, bootstrap, folders.out, facts, reports)
        write_text(folders.plots, _points_table(reports[0], facts.table.names))
        stage.send({"groups": len(reports), "concepts": len(table.names)}, force=True)


def _read_all(
    groups: Sequence[RunGroup], folders: Folders, hits: Hits, names: Sequence[str], data: Mapping[str, str]
) -> list[_Read]:
    """Read all groups; what is wrong with any is said at once."""
    found: list[_Read] = []
    faults: list[str] = []
    for group in groups:
        try:
            plan = None if group.policy == NO_POLICY else read_plan_of(folders.reduced / group.policy, data)
            measures, notes = read_measures(folders.reports, group.runs, names, data)
            found.append(_Read(group, frequencies(hits, len(names), plan), measures, notes))
        except DataError as error:
            faults.append(f"{group.label} (runs {', '.join(group.runs)}): {error}")
    if faults:
        raise DataError(f"{len(faults)} of {len(groups)} groups of runs cannot be reported:\n" + "\n".join(faults))
    if all(np.isnan(measure.scores).all() for one in found for measure in one.measures.values()):
        what = f"none of the {len(names)} concepts is a class that a run was tested on"
        raise DataError(f"{what}; count the classes of the data set: write list: classes, and rerun its stage")
    return found


def _inputs(groups: Sequence[RunGroup], folders: Folders) -> dict[str, str]:
    runs = {f"run {run}": version_of(folders.reports / run) for group in groups for run in group.runs}
    policies = {
        f"policy {group.policy}": version_of(folders.reduced / group.policy)
        for group in groups
        if group.policy != NO_POLICY
    }
    return {"concepts": version_of(folders.concepts), **policies, **runs}


def _publish(name: str, bootstrap: Bootstrap, out: Path, facts: Facts, reports: Sequence[GroupReport]) -> None:
    default = reports[0].frequencies.side
    with atomic_folder(out) as folder:
        for side in SIDES:
            if side in reports[0].frequencies.counts:
                stem = "fits" if side == default else f"fits_{side}"
                write_json(folder / f"{stem}.json", rounded(fits_as_json(reports, side)))
        write_json(folder / "metrics.json", rounded(few_numbers(reports)))
        write_text(folder / "index.html", render(facts, reports))
        counts = {"concepts": len(facts.table.names), "groups": len(reports)}
        described = {"resamples": bootstrap.resamples, "seed": bootstrap.seed}
        write_manifest(folder, KIND, name, described, counts, facts.versions, code_digest("evaluation.concepts.report"))


def _points_table(report: GroupReport, names: Sequence[str]) -> str:
    """Return count and accuracy of every concept of a group's first measure, tab-separated, by rising count."""
    lines = ["concept\tcount\taccuracy"]
    if report.findings:
        first = report.findings[0]
        for row in np.argsort(first.points.counts, kind="stable").tolist():
            score = float(first.points.scores[row])
            assert math.isfinite(score)
            place = int(first.rows[row])
            lines.append(f"{' '.join(names[place].split())}\t{int(first.points.counts[row])}\t{score:.6f}")
    return "\n".join(lines) + "\n"
