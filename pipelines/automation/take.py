"""Takes delivered batches of every data set that waits for some, for the sensor and for the terminal alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from assets.deliveries.batches import BATCHES, accept, read_batches

if TYPE_CHECKING:
    from assets.store import Store


@dataclass(frozen=True, slots=True)
class Taken:
    """What a look at the store found.

    Attributes:
        accepted: (data set, batch) of those taken now.
        waiting: Whole batches that were left for later.
        incomplete: What is there but not whole, one line each.
        lines: What happened, for a log.
    """

    accepted: tuple[tuple[str, str], ...]
    waiting: int
    incomplete: tuple[str, ...]
    lines: tuple[str, ...]

    def tags(self) -> dict[str, str]:
        """Return data set -> its batches taken now, short enough for the tag of a run."""
        found: dict[str, list[str]] = {}
        for dataset, batch in self.accepted:
            found.setdefault(dataset, []).append(batch)
        return {dataset: _short(batches) for dataset, batches in found.items()}


def batches_path(root: Path, dataset: str) -> Path:
    """Return the file that lists the accepted batches of a data set."""
    return root / BATCHES / f"{dataset}.json"


def take(
    root: Path, splits: Sequence[tuple[str, str, str]], taking: bool = True, store: "Store | None" = None
) -> Taken:
    """Look for batches of every split, and accept the whole ones.

    Args:
        root: The project.
        splits: Data set, split and prefix of every split that takes deliveries.
        taking: Whether to accept them, or only to count them.
        store: Where to look; that of params.yaml when None.

    Returns:
        What was found.

    Raises:
        StoreError: The store does not answer.
    """
    # imported late: the store's client takes a while to load, and definitions are loaded often
    from assets.deliveries.look import look
    from assets.store import STORE_FOLDER, open_store
    from pipelines.params import PARAMS, load_store

    store = store or open_store(load_store(root / PARAMS), root / STORE_FOLDER)
    accepted: list[tuple[str, str]] = []
    incomplete: list[str] = []
    lines: list[str] = []
    waiting = 0
    for dataset, split, prefix in splits:
        path = batches_path(root, dataset)
        found = look(store, prefix, read_batches(path))
        incomplete += [f"{prefix}{batch}: {why}" for batch, why in found.incomplete]
        if not found.complete:
            continue
        if not taking:
            waiting += len(found.complete)
            continue
        accept(path, dataset, split, found.complete)
        accepted += [(dataset, batch.name) for batch in found.complete]
        lines += [f"{dataset}: took batch {batch.name} ({len(batch.shards)} shards)" for batch in found.complete]
    return Taken(tuple(accepted), waiting, tuple(incomplete), tuple(lines))


def _short(names: Sequence[str], longest: int = 200) -> str:
    text = ", ".join(names)
    return text if len(text) <= longest else f"{len(names)} batches"
