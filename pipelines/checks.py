"""What validation found, as Dagster asset checks.

The names of asset checks must be known before anything runs, while the entries of checks.json belong to the data set.
So there are two: ``data_quality`` fails on entries of severity error and keeps everything downstream from running,
``data_warnings`` only warns. Their metadata lists every entry. A stage may name the two otherwise.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dagster import (
    AssetCheckEvaluation,
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetKey,
    MetadataValue,
)

from assets.errors import DataError, message

DATA_QUALITY, DATA_WARNINGS, PUSHED = "data_quality", "data_warnings", "pushed"
_NAMES = (DATA_QUALITY, DATA_WARNINGS)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of checks.json."""

    name: str
    description: str
    passed: bool
    severity: str
    observed: dict[str, Any]


def read_checks(path: Path) -> list[Entry]:
    """Read a checks.json.

    Raises:
        DataError: It is missing or not in the form of docs/architecture.md.
    """
    try:
        return [
            Entry(item["name"], item.get("description", ""), item["passed"], item["severity"], item.get("observed", {}))
            for item in json.loads(path.read_text(encoding="utf-8"))
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            message(f"{path} is no list of checks ({type(error).__name__}: {error})", fix="rerun the validation stage")
        ) from error


def quality_specs(key: AssetKey, names: tuple[str, str] = _NAMES) -> list[AssetCheckSpec]:
    """Return the checks of an asset that has a checks.json.

    Args:
        key: The asset.
        names: Of the check that blocks and of the one that warns.
    """
    blocking, warning = names
    return [
        AssetCheckSpec(blocking, asset=key, blocking=True, description="No rule of severity error is broken."),
        AssetCheckSpec(warning, asset=key, description="No rule of severity warning is broken."),
    ]


def quality_results(path: Path, key: AssetKey, names: tuple[str, str] = _NAMES) -> list[AssetCheckResult]:
    """Turn a checks.json into results.

    Args:
        path: The file.
        key: The asset it belongs to.
        names: Of the check that blocks and of the one that warns.

    Returns:
        One result per check of :func:`quality_specs`.
    """
    entries = read_checks(path)
    errors = [entry for entry in entries if entry.severity == "error"]
    warnings = [entry for entry in entries if entry.severity != "error"]
    return [
        _result(key, names[0], AssetCheckSeverity.ERROR, errors),
        _result(key, names[1], AssetCheckSeverity.WARN, warnings),
    ]


def _result(key: AssetKey, name: str, severity: AssetCheckSeverity, entries: list[Entry]) -> AssetCheckResult:
    failed = [entry for entry in entries if not entry.passed]
    text = f"{len(failed)} of {len(entries)} rules broken" if failed else f"all {len(entries)} rules hold"
    if failed:
        text += ": " + ", ".join(entry.name for entry in failed)
    return AssetCheckResult(
        asset_key=key,
        check_name=name,
        passed=not failed,
        severity=severity,
        description=text,
        metadata={
            "details": MetadataValue.md(_table(failed + [entry for entry in entries if entry.passed])),
            "rules": MetadataValue.int(len(entries)),
            "broken": MetadataValue.int(len(failed)),
        },
    )


def _table(entries: list[Entry]) -> str:
    rows = ["| rule | holds | observed | meaning |", "| --- | --- | --- | --- |"]
    for entry in entries:
        observed = ", ".join(f"{name} {_number(value)}" for name, value in entry.observed.items())
        rows.append(f"| {entry.name} | {'yes' if entry.passed else '**no**'} | {observed} | {entry.description} |")
    return "\n".join(row.replace("\n", " ") for row in rows)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def blocks(results: Sequence[AssetCheckResult]) -> bool:
    """Say whether any result keeps downstream assets from running."""
    return any(not result.passed and result.severity == AssetCheckSeverity.ERROR for result in results)


def as_evaluation(result: AssetCheckResult) -> AssetCheckEvaluation:
    """Turn a result into the event that can be reported outside a run."""
    assert result.asset_key is not None and result.check_name is not None
    return AssetCheckEvaluation(
        asset_key=result.asset_key,
        check_name=result.check_name,
        passed=result.passed,
        severity=result.severity,
        description=result.description,
        metadata=result.metadata,
        blocking=result.severity == AssetCheckSeverity.ERROR,
    )
