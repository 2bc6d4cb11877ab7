"""``clipfoundry diff``: what changed between two git revisions in parameters, data sets and scores, on one page.

DVC's own ``diff``, ``params diff`` and ``metrics diff`` list every file and every number. This page answers what one
asks first, how many pairs, rejected for what reason, and which scores moved by more than their interval, and reads
files that lie inside a stage's output, which DVC's metrics cannot.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from botocore.exceptions import BotoCoreError, ClientError
from dvc.api import DVCFileSystem
from dvc.repo import Repo
from dvc.scm import RevError
from dvc_data.index import DataIndexDirError
from ruamel.yaml import YAML

from assets.errors import ConfigError, DataError, message

WORKSPACE = "workspace"
_UNVERSIONED = ("machine", "profile", "store")
_NOTHING = "-"
_WIDEST = 32
Pair: TypeAlias = tuple[Any, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the page; without values it is a heading."""

    label: str
    before: str = ""
    after: str = ""
    change: str = ""


class Revision:
    """The project's files as they were at a git revision, out of git, DVC's cache or the store.

    Attributes:
        name: What the user called it.
    """

    def __init__(self, name: str, root: Path = Path()) -> None:
        self.name = name
        try:
            repo = Repo(str(root), rev=None if name == WORKSPACE else name)
        except RevError as error:
            wanted = f"a commit, branch or tag, or {WORKSPACE}"
            raise ConfigError(message("unknown git revision", name, wanted, 'choose one of "git log"')) from error
        self._files = DVCFileSystem(repo)
        self._outs = [str(out.def_path) for out in repo.index.outs if out.hash_info]

    def text(self, path: str) -> str | None:
        """Return a file's content, or None where the revision has no such file.

        Raises:
            DataError: dvc.lock of the revision has it, but neither the cache nor the store gives it.
        """
        try:
            return str(self._files.read_text(path, encoding="utf-8"))
        except (OSError, BotoCoreError, ClientError, DataIndexDirError) as error:
            if not any(path == out or path.startswith(f"{out}/") for out in self._outs):
                return None
            reason = error.__cause__ or error
            raise DataError(
                message(
                    f"{path} of revision {self.name} is neither in the cache nor in reach of it ({reason})",
                    fix='connect to the store that has it with "clipfoundry store configure", or run "dvc push" in '
                    "the clone that made it",
                )
            ) from error

    def json(self, path: str) -> Any:
        """Return a JSON file's content, or None where the revision has no such file."""
        text = self.text(path)
        return None if text is None else json.loads(text)

    def params(self) -> dict[str, Any]:
        """Return params.yaml."""
        return YAML(typ="safe", pure=True).load(self.text("params.yaml") or "{}") or {}


def print_diff(before: str = "HEAD", after: str = WORKSPACE) -> None:
    """Print what changed from one revision to another.

    Args:
        before: A git revision.
        after: Another one, or ``workspace``.

    Raises:
        ConfigError: Git does not know a revision.
        DataError: A file of a revision can be had nowhere.
    """
    print("\n".join(page(Revision(before), Revision(after))))


def page(before: Revision, after: Revision) -> list[str]:
    """Lay the differences out as lines of text, widths fitted to them.

    Args:
        before: The one side.
        after: The other side.

    Returns:
        The lines; a single one when nothing differs.
    """
    params = before.params(), after.params()
    sections = {"parameters": list(_parameter_rows(params))}
    for name in _names(*(side.get("datasets") for side in params)):
        sections[f"data set {name}"] = list(_data_rows(before, after, name))
    for run, rows in _score_rows((before, after), params[1].get("report") or params[0].get("report") or {}):
        sections[f"run {run}, percent with half of the 95 % interval"] = rows
    found = {title: rows for title, rows in sections.items() if rows}
    if not found:
        return [f"{before.name} and {after.name} have the same parameters, data sets and scores"]
    rows = [Row("", before.name, after.name, "change")]
    for title, lines in found.items():
        rows += [Row(title), *(Row(f"  {row.label}", row.before, row.after, row.change) for row in lines)]
    return _aligned(rows)


def _aligned(rows: list[Row]) -> list[str]:
    wide = [row for row in rows if row.before or row.after]
    label = max(len(row.label) for row in wide)
    sides = [max(len(getattr(row, side)) for row in wide) for side in ("before", "after", "change")]
    return [
        f"{row.label:{label}}  {row.before:>{sides[0]}}  {row.after:>{sides[1]}}  {row.change:>{sides[2]}}".rstrip()
        for row in rows
    ]


def _names(*mappings: Mapping[str, Any] | None) -> list[str]:
    return list(dict.fromkeys(name for mapping in mappings for name in mapping or {}))


def _parameter_rows(params: tuple[Mapping[str, Any], Mapping[str, Any]]) -> Iterator[Row]:
    """Yield every changed value that some stage depends on."""
    flat = [
        dict(_leaves({section: value for section, value in side.items() if section not in _UNVERSIONED}))
        for side in params
    ]
    for name in _names(*flat):
        row = _row(name, (flat[0].get(name), flat[1].get(name)))
        if row is not None:
            yield row


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of everything in nested mappings."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _data_rows(before: Revision, after: Revision, name: str) -> Iterator[Row]:
    """Yield what changed in a data set: pairs per split, reasons of rejection and the checks that fail."""
    sides = [_data_facts(side, name) for side in (before, after)]
    for group in sides[0]:
        for label in _names(*(side[group] for side in sides)):
            row = _row(label, (sides[0][group].get(label), sides[1][group].get(label)))
            if row is not None:
                yield row


def _data_facts(revision: Revision, name: str) -> dict[str, dict[str, Any]]:
    """Return group -> label -> value, the groups in the order of the page."""
    declared = (revision.json(f"data/raw/{name}/dataset.json") or {}).get("splits") or {}
    metrics = revision.json(f"data/valid/{name}/metrics.json") or {}
    checks = revision.json(f"reports/validation/{name}/checks.json") or []
    failing = [check["name"] for check in checks if not check["passed"]]
    return {
        "splits": {f"pairs in {split}": facts["samples"] for split, facts in declared.items()},
        "totals": {key: metrics[key] for key in ("accepted", "rejected") if key in metrics},
        "reasons": {f"  {reason}": count for reason, count in metrics.get("rejected_by_reason", {}).items() if count},
        "checks": {"failing checks": ", ".join(failing)} if failing else {},
    }


def _row(label: str, values: Pair) -> Row | None:
    """Return a line for two values, or None when they are equal."""
    if values[0] == values[1]:
        return None
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    change = f"{values[1] - values[0]:+,.6g}" if numbers else ""
    if numbers and all(isinstance(value, int) for value in values):
        change = f"{values[1] - values[0]:+,d}"
    return Row(label, _value(values[0]), _value(values[1]), change)


def _value(value: Any) -> str:
    if value is None:
        return _NOTHING
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,d}"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."


def _score_rows(sides: tuple[Revision, Revision], report: Mapping[str, Any]) -> Iterator[tuple[str, list[Row]]]:
    """Yield (run, its lines) for the columns of the leaderboard, in the later leaderboard's order."""
    boards = [{row["run"]: row for row in side.json("reports/leaderboard.json") or []} for side in sides]
    for run in _names(boards[1], boards[0]):
        rows = [board.get(run) for board in boards]
        lines: list[Row] = []
        for metric in report.get("columns") or ():
            values = [row["metrics"].get(metric) if row else None for row in rows]
            if values[0] != values[1]:
                before, after = (_score(row, metric) for row in rows)
                lines.append(Row(metric, before, after, _score_change(values)))
        yield run, lines


def _score(row: Mapping[str, Any] | None, metric: str) -> str:
    if row is None or (value := row["metrics"].get(metric)) is None:
        return _NOTHING
    interval = row["intervals"].get(metric)
    spread = f" +-{50 * (interval[1] - interval[0]):4.1f}" if interval else ""
    return f"{100 * value:.1f}{spread}"


def _score_change(values: list[float | None]) -> str:
    before, after = values
    return "" if before is None or after is None else f"{100 * (after - before):+.1f}"
