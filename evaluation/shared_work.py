"""Work on a data set that several processes share, shard by shard, and that goes on where a killed run stopped.

What is there on disk is the only state: chunks of distinct captions, whose features wait in files of their own, and
shards, whose pictures are read in batches that never cross a shard.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from torch.utils.data import DataLoader, Dataset

from assets.progress import Progress, Stage
from assets.row_files import RowFiles, write_array
from evaluation.sides import TextSide
from training.data.pairs import Pairs

_SECONDS_BETWEEN_LOOKS = 1.0
_Item = TypeVar("_Item")
Batches = Sequence[tuple[int, list[int]]]
"""Number of a shard, and places of some of its pairs."""


@dataclass(frozen=True, slots=True)
class Share:
    """This process among those that share the work.

    Attributes:
        rank: Its number.
        world_size: How many there are.
        local_rank: Its number on its machine.
    """

    rank: int
    world_size: int
    local_rank: int

    @staticmethod
    def of_this_process() -> "Share":
        """Return what torchrun says; the only process where it says nothing."""
        rank, world_size, local_rank = (os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        return Share(int(rank or "0"), int(world_size or "1"), int(local_rank or "0"))

    def of(self, items: Sequence[int]) -> list[int]:
        """Return every Nth item."""
        return list(items[self.rank :: self.world_size])


def wait(missing: Callable[[], int], what: str, stage: Stage) -> None:
    """Wait for the work of the other processes; torchrun ends this one if one of them fails.

    Args:
        missing: Counts what is not there yet.
        what: Its name in the plural.
        stage: For the log.
    """
    told = False
    while count := missing():
        if not told:
            stage.log.info("%s: waiting for %d %s of other processes", stage.name, count, what)
            told = True
        time.sleep(_SECONDS_BETWEEN_LOOKS)


class CaptionRows:
    """Features of captions, where equal ones are embedded once.

    Attributes:
        captions: Distinct captions in order of first appearance.
        paths: The files of the chunks of captions, float32 [n, D] each.
    """

    def __init__(self, captions: pa.StringArray, folder: Path, chunk: int) -> None:
        """Find the distinct captions.

        Args:
            captions: Of the pairs, [n].
            folder: Where the features of chunks wait.
            chunk: Distinct captions per unit of work; what a kill can cost.
        """
        encoded: Any = captions.dictionary_encode()
        self.captions: pa.StringArray = encoded.dictionary
        self._caption: npt.NDArray[np.int32] = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32)
        self._chunk = chunk
        self.paths = [folder / f"{number:06d}.npy" for number in range(-(-len(self.captions) // chunk))]
        self._rows: RowFiles | None = None

    def chunk(self, number: int) -> list[str]:
        """Return the captions of a chunk."""
        return self.captions.slice(number * self._chunk, self._chunk).to_pylist()

    def encode(self, text: TextSide, share: Share, stage: Stage) -> None:
        """Embed this process's share of the chunks that are not there yet.

        Args:
            text: Embeds.
            share: This process.
            stage: For progress.
        """
        todo = share.of(range(len(self.paths)))
        left = [number for number in todo if not self.paths[number].is_file()]
        total, ahead = (sum(len(self.chunk(number)) for number in numbers) for numbers in (todo, left))
        with stage.progress("embed captions", total, "caption", total - ahead) as progress:
            for number in left:
                captions = self.chunk(number)
                write_array(self.paths[number], text.encode(captions))
                progress.advance(len(captions))

    def open(self, stage: Stage) -> int:
        """Wait for the chunks of all processes, and return the width of their rows, D.

        Args:
            stage: For the log.
        """
        wait(lambda: sum(not path.is_file() for path in self.paths), "chunks of captions", stage)
        width: int = np.load(self.paths[0], mmap_mode="r").shape[1]
        lengths = [min(self._chunk, len(self.captions) - number * self._chunk) for number in range(len(self.paths))]
        self._rows = RowFiles(self.paths, lengths, np.dtype("<f4"), (width,))
        return width

    def rows(self, places: range) -> npt.NDArray[np.float32]:
        """Return the features of the captions of some pairs, once they are open.

        Args:
            places: Of the pairs, without gaps.

        Returns:
            [n, D].
        """
        assert self._rows is not None
        caption = self._caption[places.start : places.stop]
        return self._rows.gather(caption // self._chunk, caption % self._chunk)


def shard_ranges(pairs: Pairs) -> list[range]:
    """Return the places of each shard's pairs.

    Args:
        pairs: In index order.
    """
    stops = np.cumsum(pairs.shard_sizes).tolist()
    return [range(start, stop) for start, stop in zip([0, *stops[:-1]], stops, strict=True)]


def shard_batches(ranges: Sequence[range], shards: Sequence[int], size: int) -> list[tuple[int, list[int]]]:
    """Cut shards into batches, none of which crosses the end of one.

    Args:
        ranges: Places of each shard's pairs.
        shards: Numbers of the shards wanted.
        size: Pairs per batch.
    """
    return [
        (shard, list(ranges[shard][start : start + size]))
        for shard in shards
        for start in range(0, len(ranges[shard]), size)
    ]


def whole_shards(
    parts: Iterator[npt.NDArray[np.float32]], batches: Batches, ranges: Sequence[range], progress: Progress
) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """Put the features of batches together, shard by shard.

    Args:
        parts: Of each batch, [pairs in it, ...].
        batches: Which pairs they are.
        ranges: Places of each shard's pairs.
        progress: Advances by pairs.

    Yields:
        Number of a shard and the features of all its pairs, [n, ...].
    """
    waiting: list[npt.NDArray[np.float32]] = []
    for part, (shard, places) in zip(parts, batches, strict=True):
        waiting.append(part)
        progress.advance(len(places))
        if places[-1] == ranges[shard][-1]:
            yield shard, np.concatenate(waiting)
            waiting.clear()


def read_batches(pairs: Pairs, items: Dataset[_Item], batches: Batches, workers: int) -> Iterator[_Item]:
    """Yield batches of items, while coming shards are on their way where they are far.

    Args:
        pairs: What the items are read from.
        items: One for each pair.
        batches: Which ones, shard by shard.
        workers: Processes that read beside the main one.
    """
    loader: DataLoader[_Item] = DataLoader(
        items, batch_sampler=[places for _, places in batches], num_workers=min(workers, len(batches))
    )
    shards = list(dict.fromkeys(shard for shard, _ in batches))
    before = -1
    for item, (shard, _) in zip(loader, batches, strict=True):
        if shard != before:
            pairs.prefetch(shards[shards.index(shard) + 1 :][:1])
            before = shard
        yield item
