"""The asset of a champion: acting on the decision that the stage ``challenge`` made, and the history as its page."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    AssetSpec,
    DataVersion,
    MaterializeResult,
    MetadataValue,
    multi_asset,
)

from evaluation.promotion.champions import CHAMPIONS, History, read_history
from pipelines.dvc_project import PARAMS
from pipelines.pages import page_address
from pipelines.translator import fresh_within


def champion_asset(
    root: Path, name: str, values: Mapping[str, Any], decision: AssetKey, days: float | None
) -> AssetsDefinition:
    """Make the asset ``models/NAME``.

    Every challenge is a materialisation: one that the champion withstood keeps its data version, so nothing that reads
    the champion becomes stale, and the events are its history. Where no model may become the first champion yet there
    is none.

    Args:
        root: The project.
        name: The entry of ``promotions``.
        values: The entry as plain data.
        decision: The asset of the stage ``challenge``.
        days: Age in days from which the UI warns that no challenge took place; None for never.

    Returns:
        The asset.
    """
    key, run = AssetKey(["models", name]), str(values.get("run"))
    spec = AssetSpec(
        key,
        deps=[decision, AssetKey(["models", run])],
        skippable=True,
        description=f"The best {run} so far: a new one takes its place only if it is better by the rules of {name}.",
        group_name="promotion",
        kinds={"dvc", "git", "s3"},
        owners=["team:training"],
        tags={"stage": "promote", "entry": name},
        freshness_policy=None if days is None else fresh_within(days),
        metadata={"command": MetadataValue.text(f"clipfoundry promote {name}")},
    )

    @multi_asset(name=f"promote__{re.sub(r'[^A-Za-z0-9_]', '_', name)}", specs=[spec], pool="cpu")
    def promote_champion(context: AssetExecutionContext) -> Iterator[MaterializeResult[Any]]:
        # imported late: the store's client takes a while to load, and definitions are loaded often
        from assets.store import STORE_FOLDER, open_store
        from evaluation.promotion.config import NO_BUCKET
        from pipelines.params import load_store
        from pipelines.promotion.promote import promote

        published = values.get("bucket", NO_BUCKET) != NO_BUCKET
        store = open_store(load_store(root / PARAMS), root / STORE_FOLDER) if published else None
        promoted = promote(root, name, store)
        history = read_history(root / CHAMPIONS, name)
        champion = history.champion
        if champion is None:
            context.log.warning(f"{name}: there is no champion yet, and {run} may not become one")
            return
        context.log.info(f"{name}: {promoted.reason if promoted else f'version {champion.version} stays'}")
        yield MaterializeResult(
            asset_key=key,
            data_version=DataVersion(champion.md5),
            metadata={"promoted": MetadataValue.bool(promoted is not None), **champion_metadata(root, history)},
        )

    return promote_champion


def champion_metadata(root: Path, history: History) -> Mapping[str, MetadataValue[Any]]:
    """Describe the present champion and those before it.

    Args:
        root: The project.
        history: At least one version.
    """
    champion = history.champion
    assert champion is not None
    return {
        "version": MetadataValue.int(champion.version),
        "tag": MetadataValue.text(champion.tag),
        "run": MetadataValue.text(champion.run),
        "reason": MetadataValue.md(champion.reason),
        "path": MetadataValue.path(str(root / "models" / history.name)),
        "published": MetadataValue.text(champion.published or "nowhere"),
        "page": MetadataValue.url(page_address(f"reports/promotion/{history.name}/index.html")),
        "history": MetadataValue.md(_table(history)),
        **{metric: MetadataValue.float(score) for metric, score in champion.scores.items()},
    }


def _table(history: History) -> str:
    metrics = list(dict.fromkeys(metric for version in history.versions for metric in version.scores))
    rows: list[Sequence[str]] = [("when", "what", "version", "run", *metrics), ("---",) * (4 + len(metrics))]
    versions = {version.version: version for version in history.versions}
    for event in reversed(history.events):
        version = versions[event.version]
        scores = [f"{100 * version.scores[m]:.1f} %" if m in version.scores else "" for m in metrics]
        rows.append((event.when, event.what.replace("_", " "), str(event.version), version.run, *scores))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
