"""Which training pairs are kept out of training to watch it, and how they are shown."""

import dataclasses

import numpy as np
from pandas.util import hash_array

from assets.features.config import INDEX_CAPTION
from training.data.loader import Batch, StepDataset, ViewPlan
from training.data.order import SampleOrder
from training.data.pairs import Pairs
from training.data.views import ResizedView, View, ViewsConfig

_WHOLE: dict[str, View] = {"image": ViewsConfig(crop_area=(1.0, 1.0))}
_ROWS = 256


def take(pairs: Pairs, positions: np.ndarray) -> Pairs:
    """Return some of the pairs.

    Args:
        pairs: All of them.
        positions: Which ones, [n] int64, in the order wanted.
    """
    return dataclasses.replace(
        pairs,
        shard=pairs.shard[positions],
        offset=pairs.offset[positions],
        size=pairs.size[positions],
        keys=pairs.keys.take(positions),
        captions=pairs.captions.take(positions),
    )


def hold_out(pairs: Pairs, count: int) -> tuple[Pairs, Pairs]:
    """Split off the pairs whose keys have the smallest hashes: the same ones in every run on the same data.

    Where shards lie in an object store, all pairs of the shard whose name has the smallest hash come first.

    Args:
        pairs: All accepted pairs.
        count: How many to keep out; fewer than there are.

    Returns:
        Pairs for training and held-out pairs, both in index order.
    """
    keys = np.asarray(pairs.keys.to_numpy(zero_copy_only=False), dtype=object)
    hashes = hash_array(keys, categorize=False)  # pyright: ignore[reportCallIssue] - stubs lack it
    order = np.argsort(hashes, kind="stable")
    if pairs.stored:  # whole shards first, so that looking at them does not fetch every shard there is
        rank = np.argsort(np.argsort(hash_array(np.asarray(pairs.shards, dtype=object), categorize=False)))  # pyright: ignore[reportCallIssue]
        order = order[np.argsort(rank[pairs.shard[order]], kind="stable")]
    out = np.zeros(len(pairs), dtype=bool)
    out[order[:count]] = True
    return take(pairs, np.flatnonzero(~out)), take(pairs, np.flatnonzero(out))


def whole_images(pairs: Pairs, plan: ViewPlan) -> list[Batch]:
    """Load pairs once, each image whole, as the held-out pairs are looked at.

    Args:
        pairs: A few thousand at most; all stay in memory.
        plan: Its views are ignored, and so are captions of KEY.json.

    Returns:
        Batches that together hold every pair once; the last one may be short. Of frozen text they have the first slot.
    """
    resized = {name: view for name, view in plan.views.items() if isinstance(view, ResizedView) and view.of in _WHOLE}
    replay = None if plan.replay is None else plan.replay.of_whole_images()
    plan = dataclasses.replace(
        plan, views=_WHOLE | resized, boxes=False, objects=False, captions=(INDEX_CAPTION,), replay=replay
    )
    return [
        _first_rows(StepDataset(part, SampleOrder(len(part), len(part), 0), plan)[0])
        for start in range(0, len(pairs), _ROWS)
        if (part := take(pairs, np.arange(start, min(start + _ROWS, len(pairs)))))
    ]


def _first_rows(batch: Batch) -> Batch:
    """Leave out the rows of text that are not looked at: all of these batches stay in memory."""
    return {name: value[:, :1].clone() if name == "text_rows" else value for name, value in batch.items()}
