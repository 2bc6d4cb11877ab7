"""Passes beside the scan: something measured of every sample, shard by shard, and remembered under ``work/``.

What a pass finds does not depend on the limits, so that new limits measure nothing twice. A pass reads what the scan
has checked, and its markers lie in the folder of this very data, so they need no stamp of their own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from assets.index import INDEX
from assets.progress import Stage
from assets.row_files import write_array
from assets.shard_cache import ShardCache
from assets.worker_pool import run_tasks


@dataclass(frozen=True, slots=True)
class ShardSamples:
    """The samples of one shard.

    Attributes:
        raw: The raw data folder.
        shard: The shard as the index names it.
        rows: Column -> values, in index order.
        cache: Knows the object store, for shards that lie in one.
    """

    raw: Path
    shard: str
    rows: dict[str, list[Any]]
    cache: ShardCache | None


@dataclass(frozen=True, slots=True)
class ShardPass:
    """A thing to measure.

    Attributes:
        name: What progress and the markers' folder are called.
        version: Names the code and the model that measure; another one measures anew.
        columns: Columns of the index that it looks at.
        measure: Returns an array with one entry per sample; a function that worker processes can import.
    """

    name: str
    version: str
    columns: tuple[str, ...]
    measure: Callable[[ShardSamples], np.ndarray]


@dataclass(frozen=True, slots=True)
class _Task:
    raw: Path
    shard: str
    what: ShardPass
    marker: Path
    cache: ShardCache | None


def _run(_: None, task: _Task) -> int:
    """Measure one shard and write its marker; return the number of samples."""
    table = pq.read_table(task.raw / INDEX, columns=list(task.what.columns), filters=[("shard", "==", task.shard)])
    values = task.what.measure(ShardSamples(task.raw, task.shard, table.to_pydict(), task.cache))
    assert len(values) == table.num_rows
    write_array(task.marker, values)
    return len(values)


def run_pass(
    stage: Stage,
    what: ShardPass,
    raw: Path,
    shards: dict[str, int],
    work: Path,
    workers: int,
    cache: ShardCache | None = None,
) -> np.ndarray:
    """Measure all samples.

    Args:
        stage: For log and progress.
        what: What to measure.
        raw: The raw data folder.
        shards: Shard -> number of samples, in index order.
        work: Folder of what was found in this very data.
        workers: Processes beside this one; 0 works here.
        cache: Knows the object store, for shards that lie in one.

    Returns:
        What was measured, one entry per row of the index.

    Raises:
        DataError: A worker was killed, or a shard cannot be read.
    """
    folder = work / f"{what.name}-{what.version}"
    tasks = [_Task(raw, shard, what, folder / f"{place:06d}.npy", cache) for place, shard in enumerate(shards)]
    todo = [task for task in tasks if not task.marker.is_file()]
    total, left = sum(shards.values()), sum(shards[task.shard] for task in todo)
    if todo:
        with stage.progress(what.name, total, "sample", initial=total - left) as progress:
            for task, samples in run_tasks(_run, None, todo, workers):
                progress.advance(samples, shard=task.shard)
    return np.concatenate([np.load(task.marker, allow_pickle=False) for task in tasks])
