"""What ``clipfoundry batches`` does: deliver a folder, list batches, accept and reject them by hand."""

import argparse
from collections.abc import Callable
from pathlib import Path

from assets.config import entry, read_sections
from assets.deliveries.batches import BATCHES, Batches, accept, read_batches, reject
from assets.deliveries.look import look
from assets.deliveries.splits import delivery_splits
from assets.deliveries.upload import deliver, megabytes
from assets.errors import ConfigError, DataError, message
from assets.progress import Stage
from assets.section import parse, unknown
from assets.store import STORE_FOLDER, Store, StoreConfig, open_store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the operations; ``options.operation(options)`` then runs the chosen one.

    Args:
        parser: That of ``clipfoundry batches``.
    """
    operations = parser.add_subparsers(metavar="OPERATION", required=True)

    def operation(name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        sub = operations.add_parser(name, help=text, description=text)
        sub.add_argument("dataset", help="data set")
        sub.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: params.yaml")
        sub.set_defaults(operation=run)
        return sub

    sending = operation("deliver", _deliver, "upload the tars of a folder as a batch; goes on after an interruption")
    sending.add_argument("folder", type=Path, help="folder with .tar files")
    sending.add_argument("--batch", help="name of the batch (default: that of the folder)")
    sending.add_argument("--split", help="split that it extends; needed where several take deliveries")
    operation("list", _list, "show accepted, rejected, waiting and incomplete batches")
    operation("accept", _accept, "take the whole batches that wait as new data")
    rejecting = operation("reject", _reject, "take a batch out of the data set, or keep one from being taken")
    rejecting.add_argument("batch", help="name of the batch")
    rejecting.add_argument("--reason", required=True, help="why, for people")


def deliver_folder(params: Path, dataset: str, folder: Path, batch: str | None = None, split: str | None = None) -> str:
    """Upload the tars of a folder, sorted by name, as a batch.

    Args:
        params: The params.yaml; the credentials lie beside it.
        dataset: Data set.
        folder: Holds the tars.
        batch: Name of the batch; that of the folder when None.
        split: The split that it extends; needed where several take deliveries.

    Returns:
        What happened, in one line.

    Raises:
        ConfigError: The data set or split takes no deliveries, or a name is unfit.
        DataError: The folder holds no tar, or as :func:`~assets.deliveries.upload.deliver`.
        StoreError: The store does not answer or refuses.
    """
    prefixes = _prefixes(params, dataset)
    if split is None and len(prefixes) > 1:
        raise ConfigError(message(f"several splits of {dataset} take deliveries", fix=f"--split {'|'.join(prefixes)}"))
    split = split or next(iter(prefixes))
    if split not in prefixes:
        raise ConfigError(unknown(split, list(prefixes), f"split of {dataset} that takes deliveries"))
    files = sorted(folder.glob("*.tar"))
    if not files:
        raise DataError(message(f"{folder} holds no .tar file", fix="name the folder with the tars of the batch"))
    name = batch or folder.resolve().name
    with Stage(f"deliver {dataset}/{name}") as stage:
        done = deliver(_open_store(params), prefixes[split], name, files, megabytes(stage))
    return f"batch {done.batch} is delivered: {done.pairs} pairs, {len(done.sent)} tars sent, {len(done.kept)} there"


def list_batches(params: Path, dataset: str) -> list[str]:
    """Return a line for every batch of a data set: accepted, rejected, waiting, incomplete.

    Args:
        params: The params.yaml; ``batches/`` lies beside it.
        dataset: Data set.

    Raises:
        ConfigError: The data set takes no deliveries.
        StoreError: The store does not answer or refuses.
    """
    prefixes = _prefixes(params, dataset)
    known = read_batches(_file(params, dataset))
    lines = [f"accepted    {entry.batch:24s} {entry.split}, {len(entry.shards)} tars" for entry in known.accepted]
    lines += [f"rejected    {entry.batch:24s} {entry.reason}" for entry in known.rejected]
    store = _open_store(params)
    for split, prefix in prefixes.items():
        found = look(store, prefix, known)
        for batch in found.complete:
            pairs = "" if batch.pairs is None else f", {batch.pairs} pairs"
            extra = f"; not in its manifest: {', '.join(batch.unlisted)}" if batch.unlisted else ""
            lines.append(f"waiting     {batch.name:24s} {split}, {len(batch.shards)} tars{pairs}{extra}")
        lines += [f"incomplete  {name:24s} {split}, {why}" for name, why in found.incomplete]
    return lines


def accept_batches(params: Path, dataset: str) -> list[str]:
    """Accept every whole batch that waits.

    Args:
        params: The params.yaml; ``batches/`` lies beside it.
        dataset: Data set.

    Returns:
        The names of the batches accepted now.

    Raises:
        ConfigError: The data set takes no deliveries.
        StoreError: The store does not answer or refuses.
    """
    path, prefixes = _file(params, dataset), _prefixes(params, dataset)
    store = _open_store(params)
    names: list[str] = []
    for split, prefix in prefixes.items():
        found = look(store, prefix, read_batches(path))
        accept(path, dataset, split, found.complete)
        names += [batch.name for batch in found.complete]
    return names


def reject_batch(params: Path, dataset: str, batch: str, reason: str) -> Batches:
    """Reject a batch, accepted or not; see :func:`~assets.deliveries.batches.reject`.

    Args:
        params: The params.yaml; ``batches/`` lies beside it.
        dataset: Data set.
        batch: Name of the batch.
        reason: Why.

    Raises:
        ConfigError: The data set takes no deliveries, or nothing is known of such a batch.
        StoreError: The store, asked about a batch that was not accepted, does not answer or refuses.
    """
    path, prefixes = _file(params, dataset), _prefixes(params, dataset)
    known = read_batches(path)
    if known.find(batch) is None:
        store = _open_store(params)
        looks = [look(store, prefix, known) for prefix in prefixes.values()]
        waiting = [name for found in looks for name in (*(b.name for b in found.complete), *dict(found.incomplete))]
        if batch not in waiting:
            every = [*waiting, *(entry.batch for entry in (*known.accepted, *known.rejected))]
            raise ConfigError(unknown(batch, every, f"batch of {dataset}"))
    return reject(path, dataset, batch, reason)


def _prefixes(params: Path, dataset: str) -> dict[str, str]:
    """Return split -> prefix of the splits of a data set that take deliveries."""
    sections = read_sections(params)
    entry(sections, "datasets", dataset, params)
    found = {split: prefix for name, split, prefix in delivery_splits(sections["datasets"]) if name == dataset}
    if not found:
        raise ConfigError(
            message(
                f"{params}: no split of data set {dataset} takes deliveries",
                fix=f"add one, datasets.{dataset}.source.splits.train.deliveries: incoming/{dataset}/",
            )
        )
    return found


def _file(params: Path, dataset: str) -> Path:
    return params.parent / BATCHES / f"{dataset}.json"


def _open_store(params: Path) -> Store:
    config = parse(StoreConfig, read_sections(params)["store"], f"{params}: store")
    return open_store(config, params.parent / STORE_FOLDER)


def _deliver(options: argparse.Namespace) -> None:
    print(deliver_folder(options.params, options.dataset, options.folder, options.batch, options.split))


def _list(options: argparse.Namespace) -> None:
    print("\n".join(list_batches(options.params, options.dataset)) or f"no batches of {options.dataset} yet")


def _accept(options: argparse.Namespace) -> None:
    names = accept_batches(options.params, options.dataset)
    path = _file(options.params, options.dataset)
    print(f"accepted {', '.join(names)}; commit {path}" if names else f"no whole batch of {options.dataset} waits")


def _reject(options: argparse.Namespace) -> None:
    reject_batch(options.params, options.dataset, options.batch, options.reason)
    print(
        f"rejected {options.batch}; commit {_file(options.params, options.dataset)}, its shards are not used any more"
    )
