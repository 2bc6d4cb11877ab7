"""What the commands ``promote``, ``rollback`` and ``champions`` do in the current folder."""

from pathlib import Path

from assets.store import Store
from pipelines.params import PARAMS, load_store
from pipelines.promotion.history import print_champions
from pipelines.promotion.promote import promote
from pipelines.promotion.rollback import rollback


def promote_command(name: str) -> None:
    """Act on the decision on a champion; that nothing changes is no failure.

    Args:
        name: The entry of ``promotions``.
    """
    promote(Path(), name, _store(name))


def rollback_command(name: str, to: int | None) -> None:
    """Go back to an earlier champion.

    Args:
        name: The entry of ``promotions``.
        to: The version; None for the one before.
    """
    rollback(Path(), name, to, _store(name))


def champions_command(name: str | None) -> None:
    """Print the champions, or the history of one."""
    print_champions(Path(), name)


def _store(name: str) -> Store | None:
    from evaluation.promotion.config import NO_BUCKET, load_promotion
    from pipelines.demo import connect

    bucket = load_promotion(PARAMS, name).bucket
    return None if bucket == NO_BUCKET else connect(load_store(PARAMS))
