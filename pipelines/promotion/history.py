"""The champions and what happened to them, as tables in the terminal."""

from collections.abc import Sequence
from pathlib import Path

from evaluation.promotion.champions import CHAMPIONS, ChampionVersion, History, read_history
from pipelines.promotion.plan import read_plan

_STATES = {True: "champion", False: ""}


def print_champions(root: Path, name: str | None) -> None:
    """Print the champion of every promotion, or one champion's versions and events.

    Args:
        root: The project.
        name: The entry of ``promotions``; None for all that have a history.
    """
    print("\n".join(overview(root) if name is None else details(root, name)))


def overview(root: Path) -> list[str]:
    """Return one line for the present champion of every history."""
    names = sorted(path.stem for path in (root / CHAMPIONS).glob("*.json"))
    rows = [("champion", "version", "run", "model", "since", "published")]
    for name in names:
        history = read_history(root / CHAMPIONS, name)
        if (champion := history.champion) is not None:
            since = history.events[-1].when if history.events else champion.when
            rows.append((name, str(champion.version), *_facts(champion)[:2], since, champion.published or "nowhere"))
    return table(rows) if len(rows) > 1 else ['no champions yet; "clipfoundry promote NAME" makes one']


def details(root: Path, name: str) -> list[str]:
    """Return every version with its scores, and every event."""
    history = read_history(root / CHAMPIONS, name)
    lines = [f'{name} has no version yet; "clipfoundry promote {name}" makes one']
    if history.versions:
        metrics = list(dict.fromkeys(metric for version in history.versions for metric in version.scores))
        rows: list[Sequence[str]] = [("version", "state", "run", "model", "promoted", "data", "tag", "published")]
        rows += [_row(history, version) for version in history.versions]
        scores: list[Sequence[str]] = [("score", *(f"version {version.version}" for version in history.versions))]
        scores += [(metric, *(_percent(version, metric) for version in history.versions)) for metric in metrics]
        events: list[Sequence[str]] = [("when", "what", "version", "reason")]
        events += [(e.when, e.what.replace("_", " "), str(e.version), e.reason) for e in history.events]
        lines = [*table(rows), "", *table(scores), "", *table(events)]
    if (plan := read_plan(root, name)) is not None:
        command = "rollback" if plan.is_rollback else "promote"
        lines += [
            "",
            f'cut off at {plan.when}: "clipfoundry {command} {name}" goes on with version {plan.entry.version}',
        ]
    return lines


def _facts(version: ChampionVersion) -> tuple[str, str, str]:
    return version.run, version.model, version.when


def _row(history: History, version: ChampionVersion) -> Sequence[str]:
    state = "barred" if version.model in history.barred else _STATES[version.version == history.current]
    where = version.published or "nowhere"
    return (str(version.version), state, *_facts(version), f"{version.dataset} {version.data}", version.tag, where)


def _percent(version: ChampionVersion, metric: str) -> str:
    return f"{100 * version.scores[metric]:.1f} %" if metric in version.scores else "-"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay rows out under a header with a rule."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]
