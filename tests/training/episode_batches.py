"""Batches and snapshots for methods with episodes, without a data set: functions of the step."""

from collections.abc import Iterator

import torch

from training.data.loader import Batch
from training.engine.distributed import World

ROWS = 16
PROTOCLIP = {
    "kind": "protoclip",
    "episode_pairs": 32,
    "clusters": 5,
    "head_width": 24,
    "head_out": 8,
    "kmeans": {"iterations": 5, "restarts": 2},
}
TEACHER = {"components": 4}


def batch_of(step: int, stream: int = 0) -> Batch:
    """Make the global batch of a step; another stream shows the same pairs in other views."""
    pair = torch.Generator().manual_seed(step)
    text = torch.zeros(ROWS, 16, dtype=torch.int64)
    text[:, 0], text[:, 3] = 49406, 49407
    text[:, 1:3] = torch.randint(300, 340, (ROWS, 2), generator=pair)
    colour = torch.randint(0, 256, (ROWS, 3, 1, 1), generator=pair)
    view = torch.Generator().manual_seed(1000 * stream + step)
    noise = torch.randint(-20, 20, (ROWS, 3, 32, 32), generator=view)
    sample = torch.arange(ROWS) + ROWS * step
    return {
        "image": (colour + noise).clamp(0, 255).to(torch.uint8),
        "text": text,
        "sample_id": sample,
        "seed": sample + 1000 * stream,
        "text_cut": torch.zeros(ROWS, dtype=torch.bool),
    }


def share_of(batch: Batch, here: World) -> Batch:
    """Take this rank's rows."""
    rows = ROWS // here.size
    return {name: value[here.rank * rows :][:rows] for name, value in batch.items()}


def snapshots(here: World):
    """Return the snapshot source of a rank; a teacher's embeddings are there for methods that ask."""

    def source(first: int, last: int) -> Iterator[Batch]:
        for step in range(first, last):
            batch = batch_of(step, stream=1)
            teacher = torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(step)) + batch["text"][:, 1:2] % 3
            yield share_of({**batch, "features": teacher}, here)

    return source


def batches(first: int) -> Iterator[Batch]:
    """Yield the batches of all steps from the first on."""
    while True:
        yield batch_of(first)
        first += 1
