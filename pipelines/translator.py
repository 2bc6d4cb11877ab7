"""How DVC stages look in Dagster: keys, names, groups, kinds, owners, pools and checks.

A stage says in dvc.yaml under ``meta.dagster`` what cannot be derived: ``group``, ``kinds``, ``owners``, ``pool``,
``checks`` (a checks.json among its outputs) and ``hidden``. To show stages differently, subclass :class:`Translator`
and pass it to ``pipelines.dvc_assets.build_assets``.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from dagster import AssetKey

from assets.errors import ConfigError, message
from assets.section import unknown
from pipelines.dvc_project import Out, Project, StageRecord

_META_KEYS = ("group", "kinds", "owners", "pool", "checks", "hidden")


class Translator:
    """Derives everything Dagster wants to know about a stage from its record."""

    def meta(self, stage: StageRecord) -> dict[str, Any]:
        """Return ``meta.dagster``, checked for unknown keys."""
        meta: dict[str, Any] = stage.meta.get("dagster") or {}
        for key in meta:
            if key not in _META_KEYS:
                place = f"dvc.yaml: stage {stage.address}: meta.dagster"
                raise ConfigError(f"{place}: {unknown(str(key), list(_META_KEYS))}")
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
