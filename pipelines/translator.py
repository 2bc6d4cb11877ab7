"""How DVC stages look in Dagster: keys, names, groups, kinds, owners, pools and checks.

A stage says in dvc.yaml under ``meta.dagster`` what cannot be derived:

- ``group``, ``kinds``, ``owners``, ``pool``: as Dagster knows them;
- ``checks``: a checks.json among its outputs; ``check_names``: the names of the blocking and of the warning check;
- ``fresh_days``: the age in days from which its outputs count as old;
- ``automatic``: true for a cheap stage that runs by itself when what it reads has changed;
- ``hidden``: true keeps it out of Dagster.

To show stages differently, subclass :class:`Translator` and pass it to ``pipelines.dvc_assets.dvc_assets``.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Any, cast

from dagster import AssetKey, AutomationCondition, FreshnessPolicy

from assets.errors import ConfigError, message
from assets.section import unknown
from pipelines.checks import DATA_QUALITY, DATA_WARNINGS, PUSHED
from pipelines.dvc_project import Out, Project, StageRecord

_META_KEYS = ("group", "kinds", "owners", "pool", "checks", "check_names", "fresh_days", "automatic", "hidden")
_NOT_IN_TAGS = re.compile(r"[^A-Za-z0-9_.-]")
_LONGEST_TAG = 63
_NUMBERS_THAT_NAME = ("entry", "seed")
_NAME = re.compile(r"[A-Za-z0-9_]+")


class Translator:
    """Derives everything Dagster wants to know about a stage from its record."""

    def meta(self, stage: StageRecord) -> dict[str, Any]:
        """Return ``meta.dagster``, checked for unknown keys."""
        meta: dict[str, Any] = stage.meta.get("dagster") or {}
        for key in meta:
            if key not in _META_KEYS:
                raise ConfigError(f"{_place(stage)}: {unknown(str(key), list(_META_KEYS))}")
        return meta

    def hidden(self, stage: StageRecord) -> bool:
        """Say whether the stage has no assets."""
        return bool(self.meta(stage).get("hidden", False))

    def asset_outs(self, stage: StageRecord) -> list[Out]:
        """Return the outputs that become assets: ``outs``; metrics and plots only where a stage has nothing else.

        Metrics and plots of a stage that has other outputs are shown in the metadata of those.
        """
        outs = [out for out in stage.outs if out.kind == "out"]
        return outs or list(stage.outs)

    def asset_key(self, out: Out) -> AssetKey:
        """Return the key of an output: ``data/raw/emoji`` -> ``data/raw-emoji``.

        Dagster's graph shows only the last part of a key, so that part has to say which output it is.
        """
        first, *rest = PurePosixPath(out.path).parts
        return AssetKey([first, "-".join(rest)] if rest else [first])

    def op_name(self, stage: StageRecord) -> str:
        """Return the name of the stage's op: ``pretrain@clip-s0`` -> ``pretrain__clip_s0``."""
        return re.sub(r"[^A-Za-z0-9_]", "_", stage.address.replace("@", "__"))

    def group(self, stage: StageRecord) -> str:
        """Return the asset group."""
        return str(self.meta(stage).get("group", "default"))

    def kinds(self, stage: StageRecord) -> set[str]:
        """Return the badges shown on the asset."""
        return {"dvc", *self.meta(stage).get("kinds", ())}

    def owners(self, stage: StageRecord) -> Sequence[str]:
        """Return the owners: e-mail addresses or ``team:NAME``."""
        return list(self.meta(stage).get("owners", ()))

    def pool(self, stage: StageRecord) -> str | None:
        """Return the concurrency pool."""
        return self.meta(stage).get("pool")

    def checks_file(self, stage: StageRecord) -> str | None:
        """Return the checks.json that the stage writes."""
        return self.meta(stage).get("checks")

    def check_pair(self, stage: StageRecord) -> tuple[str, str]:
        """Return the names of the blocking check and of the warning check that ``checks_file`` becomes.

        Raises:
            ConfigError: ``check_names`` is not two different names.
        """
        names = self.meta(stage).get("check_names", [DATA_QUALITY, DATA_WARNINGS])
        legal = isinstance(names, list) and all(isinstance(name, str) and _NAME.fullmatch(name) for name in names)
        if not legal or len({*names} - {PUSHED}) != 2 or len(names) != 2:
            wanted = f"two different names of letters, digits and _, neither of them {PUSHED}"
            raise ConfigError(message(f"{_place(stage)}.check_names", names, wanted, "mend dvc.yaml"))
        return names[0], names[1]

    def freshness(self, stage: StageRecord) -> FreshnessPolicy | None:
        """Return the policy that ``fresh_days`` stands for.

        Raises:
            ConfigError: It is not a number above 0.
        """
        days = self.meta(stage).get("fresh_days")
        if days is None:
            return None
        if isinstance(days, bool) or not isinstance(days, int | float) or not days > 0:
            raise ConfigError(message(f"{_place(stage)}.fresh_days", days, "a number of days above 0", "mend dvc.yaml"))
        return fresh_within(days)

    def automation(self, stage: StageRecord) -> AutomationCondition[AssetKey] | None:
        """Return when the stage runs by itself: never, unless it is ``automatic``.

        Raises:
            ConfigError: ``automatic`` is neither true nor false.
        """
        automatic = self.meta(stage).get("automatic", False)
        if not isinstance(automatic, bool):
            raise ConfigError(message(f"{_place(stage)}.automatic", automatic, "true or false", "mend dvc.yaml"))
        return when_inputs_change() if automatic else None

    def tags(self, stage: StageRecord) -> dict[str, str]:
        """Return what assets can be selected by, e.g. ``tag:recipe=clip``: the stage and what its entry names.

        Numbers are settings and name nothing, but for the seed and the entry itself.
        """
        tags = {"stage": stage.group}
        for key, value in stage.entry.items():
            if key in _NUMBERS_THAT_NAME or not value.lstrip("-").isdecimal():
                tags.setdefault(_tag_text(key), _tag_text(value))
        return tags

    def stamp_file(self, stage: StageRecord) -> str | None:
        """Return the code stamp that the stage depends on."""
        return next((dep for dep in stage.deps if PurePosixPath(dep).parts[0] == "stamps"), None)

    def upstream_keys(self, stage: StageRecord, project: Project) -> list[AssetKey]:
        """Return the assets that the stage's dependencies reach."""
        keys: dict[AssetKey, None] = {}
        for _, key in self.upstream(stage, project):
            keys[key] = None
        return list(keys)

    def upstream(self, stage: StageRecord, project: Project) -> Iterator[tuple[str, AssetKey]]:
        """Yield (path of the asset's output, its key) for every asset that the stage's dependencies reach."""
        for dep in stage.deps:
            reached: dict[str, list[Out]] = {}
            for producer, out in project.producers(dep):
                if not self.hidden(producer) and producer.address != stage.address:
                    reached.setdefault(producer.address, []).append(out)
            for address, outs in reached.items():
                assets = self.asset_outs(project.stages[address])
                # a dependency on metrics or plots alone counts as one on the first asset of their stage
                for out in [out for out in outs if out in assets] or assets[:1]:
                    yield out.path, self.asset_key(out)

    def check_names(self, project: Project) -> None:
        """Refuse two stages whose ops would have one name, or two outputs with one key."""
        seen: dict[str, str] = {}
        for stage in project.stages.values():
            names = [self.op_name(stage)]
            # Dagster maps - and . of key parts to _ in output names
            names += [re.sub(r"[-.]", "_", self.asset_key(out).to_user_string()) for out in self.asset_outs(stage)]
            for name in names:
                other = seen.setdefault(name, stage.address)
                if other != stage.address:
                    raise ConfigError(
                        message(
                            f"stages {other} and {stage.address} are both {name!r} in Dagster, which maps - and . to _",
                            fix="rename one of them in params.yaml",
                        )
                    )


def fresh_within(days: float) -> FreshnessPolicy:
    """Return the policy that warns of an asset older than ``days`` days and calls it stale at twice that age."""
    return FreshnessPolicy.time_window(fail_window=timedelta(days=2 * days), warn_window=timedelta(days=days))


def when_inputs_change() -> AutomationCondition[AssetKey]:
    """Return the condition of cheap stages: something that they read was made anew, and all of it is sound and at rest.

    Unlike Dagster's ``eager`` it makes nothing that was never made (switching the sensor on starts no flood of runs)
    and waits for blocking checks.
    """
    condition = (
        AutomationCondition.any_deps_updated().since_last_handled()
        & ~AutomationCondition.any_deps_missing()
        & ~AutomationCondition.any_deps_in_progress()
        & ~AutomationCondition.in_progress()
        & AutomationCondition.all_deps_blocking_checks_passed()
    ).with_label("inputs changed")
    # what Dagster's conditions return is also for checks, and says so in its type
    return cast(AutomationCondition[AssetKey], condition)


def _place(stage: StageRecord) -> str:
    return f"dvc.yaml: stage {stage.address}: meta.dagster"


def _tag_text(text: str) -> str:
    return _NOT_IN_TAGS.sub("_", text)[:_LONGEST_TAG]
