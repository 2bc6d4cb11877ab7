"""What is going to be done, on disk before anything else is: the memory of a promotion that was cut off."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from assets.atomic import write_json
from evaluation.promotion.champions import ChampionVersion, History, What

PROMOTED: What = "promoted"
ROLLED_BACK: What = "rolled_back"
WORK = Path("work/promotion")


@dataclass(frozen=True, slots=True)
class Plan:
    """A promotion or rollback.

    Attributes:
        name: The champion.
        what: ``promoted`` or ``rolled_back``.
        entry: The version to make the champion; without ``md5`` until DVC has seen its folder.
        bar: Version of the model that may not come back, or None.
        reason: Why, in one sentence.
        when: UTC, to the second.
        stage_tag: The tag that puts it into production.
        decision: The decision that is acted on; None for a rollback.
    """

    name: str
    what: What
    entry: ChampionVersion
    bar: str | None
    reason: str
    when: str
    stage_tag: str
    decision: Mapping[str, Any] | None

    @property
    def is_rollback(self) -> bool:
        """Whether this goes to a version that was champion before."""
        return self.what == ROLLED_BACK

    def with_entry(self, **facts: Any) -> "Plan":
        """Return the plan with facts of its version filled in."""
        return replace(self, entry=replace(self.entry, **facts))

    def overtaken_by(self, history: History) -> bool:
        """Whether something later happened to the champion, e.g. by ``git pull``."""
        return bool(history.events) and history.events[-1].when > self.when

    def recorded_in(self, history: History) -> bool:
        """Whether the history has it, so that there is only one way left: on."""
        return any((event.when, event.what) == (self.when, self.what) for event in history.events)


def now() -> str:
    """Return the present time in UTC, e.g. ``2026-11-28T21:00:00Z``."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _path(root: Path, name: str) -> Path:
    return root / WORK / f"{name}.json"


def read_plan(root: Path, name: str) -> Plan | None:
    """Return what was begun and not ended, or None."""
    path = _path(root, name)
    if not path.is_file():
        return None
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    entry = ChampionVersion(**values.pop("entry"))
    return Plan(entry=entry, **values)


def write_plan(root: Path, plan: Plan) -> None:
    """Keep the plan until it is carried out."""
    write_json(_path(root, plan.name), asdict(plan))


def drop_plan(root: Path, name: str) -> None:
    """Forget the plan: it is carried out, or cannot be any more."""
    _path(root, name).unlink(missing_ok=True)
