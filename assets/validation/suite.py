"""Runs the checks with Great Expectations and writes its data docs; the only module that knows the library.

It is imported inside :func:`run_suites`, in the validation process alone: loading it takes seconds. It sends nothing
home and shows no progress bars, both settled in the process, not in the user's environment.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from assets.validation.expectations import Check
from assets.validation.offline import RUN_TIME, make_offline

_EXAMPLES = 5


@dataclass(slots=True)
class Outcome:
    """What one check found, summed over the parts of its table.

    Attributes:
        check: The check.
        passed: Whether it held in all parts.
        rows: Rows looked at.
        unexpected: Rows that break it.
        examples: A few of the values that break it.
    """

    check: Check
    passed: bool = True
    rows: int = 0
    unexpected: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, success: bool, result: dict[str, Any]) -> None:
        """Take in one part's result, in Great Expectations' form."""
        self.passed &= success
        self.rows += int(result.get("element_count") or 0)
        self.unexpected += int(result.get("unexpected_count") or 0)
        for value in result.get("partial_unexpected_list") or []:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            if text not in self.examples and len(self.examples) < _EXAMPLES:
                self.examples.append(text)

    def entry(self, table: "Table") -> dict[str, Any]:
        """Return the check's entry in checks.json, whose ``observed`` is flat.

        Args:
            table: The table it belongs to, for checks that report a value per row.
        """
        observed: dict[str, Any] = {}
        if self.check.shown:
            (rows,) = table.parts
            shown = rows.head(self.check.most or len(rows))
            values = zip(shown[table.label], shown[self.check.shown].tolist(), strict=True)
            observed = {str(label): round(value, 6) for label, value in values} or dict(table.empty)
        elif self.rows:
            observed = {"rows": self.rows, "unexpected": self.unexpected}
        if self.examples and not self.check.shown:
            observed["examples"] = "; ".join(self.examples)
        return {
            "name": self.check.name,
            "description": self.check.description,
            "passed": self.passed,
            "severity": self.check.severity,
            "observed": observed,
        }


@dataclass(frozen=True, slots=True)
class Table:
    """A table and what it must satisfy.

    Attributes:
        name: Name of its suite.
        parts: The rows, in one or several parts; checks with ``shown`` need a sequence of one.
        checks: What every part must satisfy.
        label: The column that names a row in ``observed``.
        empty: What is observed when there are no rows.
    """

    name: str
    parts: Iterable[pd.DataFrame]
    checks: list[Check]
    label: str = ""
    empty: Mapping[str, str] = field(default_factory=dict[str, str])


def run_suites(tables: Sequence[Table], site: Path) -> list[dict[str, Any]]:
    """Check tables and write the data docs.

    Args:
        tables: The tables.
        site: Folder for the HTML pages; it must exist.

    Returns:
        The entries of checks.json, in the order of tables and checks.
    """
    os.environ["GX_ANALYTICS_ENABLED"] = "False"
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)  # pyright: ignore[reportCallIssue]
    context.add_data_docs_site("site", _site_config(site))  # pyright: ignore[reportArgumentType]
    for default in [name for name in context.get_site_names() if name != "site"]:
        context.delete_data_docs_site(default)
    entries = [outcome.entry(table) for table in tables for outcome in _run(context, table)]
    context.build_data_docs()
    make_offline(site)
    return entries


def _site_config(site: Path) -> dict[str, Any]:
    return {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(site.resolve())},
    }


def suite_of(name: str, checks: Iterable[Check]) -> Any:
    """Return the ``ExpectationSuite`` of some checks; it holds for any engine of Great Expectations.

    Args:
        name: Name of the suite.
        checks: The checks.
    """
    import great_expectations as gx
    import great_expectations.expectations as catalogue

    expectations = [
        getattr(catalogue, check.kind)(
            **check.arguments,
            severity="critical" if check.severity == "error" else "warning",
            description=check.description,
            meta={"name": check.name},
        )
        for check in checks
    ]
    return gx.ExpectationSuite(name=name, expectations=expectations)


def _run(context: Any, table: Table) -> list[Outcome]:
    """Validate every part of a table against one suite."""
    import great_expectations as gx
    from great_expectations.core.run_identifier import RunIdentifier

    name = table.name
    suite = context.suites.add(suite_of(name, table.checks))
    asset = context.data_sources.add_pandas(name).add_dataframe_asset("table")
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(name=name, data=asset.add_batch_definition_whole_dataframe("rows"), suite=suite)
    )
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(name=name, validation_definitions=[definition], actions=[], result_format="BASIC")
    )
    outcomes = {check.name: Outcome(check) for check in table.checks}
    first = 1
    for part in table.parts:
        run = RunIdentifier(f"{name}-{first:08d}-{first + len(part) - 1:08d}", run_time=RUN_TIME)
        first += len(part)
        results = checkpoint.run(batch_parameters={"dataframe": part}, run_id=run)
        (result,) = results.run_results.values()
        for item in result.results:
            if (item.exception_info or {}).get("raised_exception"):
                # a check that could not run is our own bug: say so instead of counting it as a failure of the data
                raise AssertionError(f"{name}: {item.expectation_config.meta['name']}: {item.exception_info}")
            outcomes[item.expectation_config.meta["name"]].add(bool(item.success), dict(item.result))
    return list(outcomes.values())
