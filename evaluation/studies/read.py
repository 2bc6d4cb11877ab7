"""The reports of the runs of a study, read and checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from assets.errors import DataError, message
from assets.manifest import read_manifest, version_of
from evaluation.nested import flatten
from evaluation.results import read_json
from evaluation.studies.levels import Member

_ALIKE = ("settings", "code", "data")


class Observation(NamedTuple):
    """The value of one metric of one run.

    Attributes:
        share: Noise that it was trained with, 0..1.
        seed: Seed of its training.
        value: The metric.
    """

    share: float
    seed: int
    value: float


@dataclass(frozen=True, slots=True)
class Report:
    """What the stage ``evaluate`` found of one run.

    Attributes:
        member: The run.
        metrics: Dotted name -> value.
        versions: Of the ``report``, the ``model`` and the ``data``; digests of ``settings`` and ``code`` of scoring.
    """

    member: Member
    metrics: dict[str, float]
    versions: dict[str, str]


def read_reports(members: Sequence[Member], reports: Path) -> list[Report]:
    """Read the report of every run of a study.

    Args:
        members: The runs.
        reports: Holds ``R/`` of ``evaluate``.

    Raises:
        DataError: Some reports are missing, or were not made in the same way from the same data.
    """
    found: list[Report] = []
    faults: list[str] = []
    for member in members:
        folder = reports / member.run
        try:
            manifest = read_manifest(folder, "report")
            metrics = flatten(read_json(folder / "metrics.json"))
        except DataError as error:
            faults.append(f'run {member.run}: {error}: "dvc repro evaluate@{member.run}"')
            continue
        versions = {
            "report": version_of(folder),
            "model": manifest["inputs"]["model"],
            "data": manifest["inputs"]["valid"],
            "settings": manifest["config_digest"],
            "code": manifest["code"],
        }
        found.append(Report(member, metrics, versions))
    if faults:
        raise DataError(f"{len(faults)} of {len(members)} runs of the study lack results:\n" + "\n".join(faults))
    _check_alike(found)
    return found


def _check_alike(reports: Sequence[Report]) -> None:
    """Refuse runs scored in different ways or on different data, whose difference is not that of noise."""
    first = reports[0]
    for report in reports:
        for fact in _ALIKE:
            if (got := report.versions[fact]) != (wanted := first.versions[fact]):
                names = f"runs {first.member.run} and {report.member.run}"
                what = f"{names} were scored with different versions of {fact}"
                fix = f'run "dvc repro evaluate@{first.member.run} evaluate@{report.member.run}"'
                raise DataError(message(what, f"{wanted} and {got}", "the same", fix))


def observations(reports: Sequence[Report], metric: str) -> list[Observation]:
    """Return a metric of every run that has it.

    Args:
        reports: The runs.
        metric: Dotted name.
    """
    return [
        Observation(report.member.share, report.member.seed, report.metrics[metric])
        for report in reports
        if metric in report.metrics
    ]
