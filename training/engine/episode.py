"""Between episodes: lets a method embed the pairs it is about to see, and act on that (``Method.on_epoch``).

Each rank embeds the rows that it will train on, with other random views, in evaluation mode, and keeps them; nothing is
gathered here, so memory is that of its share of an episode. Which pairs an episode has follows from the sample order,
so every rank and every attempt of a run agrees on it. A run that is stopped meanwhile loses the embedding only.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from assets.progress import Stage
from training.data.loader import Batch
from training.engine.clock import TrainClock
from training.engine.distributed import World
from training.engine.flops import FlopsProbe
from training.engine.holdout import evaluating
from training.methods.base import Method
from training.methods.exchange import Features, Snapshot

SnapshotSource = Callable[[int, int], Iterator[Batch]]
"""First step, one past the last step -> this rank's batches, with snapshot views and, if the method asks, features."""
_BATCHES_BETWEEN_LOOKS = 8


class StopAsked(Exception):
    """Raised on every rank when some rank has been asked to stop while it embedded."""


@dataclass(frozen=True, slots=True)
class EmbedSettings:
    """How pairs are embedded.

    Attributes:
        seed: Of the run.
        rows: Most rows that are embedded at a time; 0 for the whole batch of a rank.
        bf16: Whether towers run in bfloat16.
    """

    seed: int
    rows: int
    bf16: bool


class Episodes:
    """Calls a method at the borders of its episodes.

    Attributes:
        flops: Operations that this has taken so far, on all ranks together.
    """

    def __init__(
        self, method: Method, probe: FlopsProbe, settings: EmbedSettings, world: World, source: SnapshotSource | None
    ) -> None:
        """Prepare.

        Args:
            method: On its device.
            probe: Of the same method.
            settings: How pairs are embedded.
            world: The ranks.
            source: Where their batches come from; None is for methods without episodes.
        """
        assert source is not None or not method.episode_steps, "a method with episodes needs batches to embed"
        self.flops = 0.0
        self._method, self._probe, self._settings, self._world = method, probe, settings, world
        self._source = source
        self._pair_flops = 0.0

    def begin(self, step: int, clock: TrainClock, stage: Stage, asked_to_stop: Callable[[], bool]) -> None:
        """Call the method if an episode begins here.

        Args:
            step: The coming step.
            clock: Counts the phases ``embed`` and ``episode``, the latter without the former.
            stage: Shows progress.
            asked_to_stop: Whether this rank has been asked to stop.

        Raises:
            StopAsked: Some rank has; the method is as before.
            FloatingPointError: An embedding is not finite.
        """
        every = self._method.episode_steps
        if not every or step % every:
            return
        epoch = step // every
        counter = FlopCounterMode(display=False)

        def embed() -> Snapshot:
            with clock.phase("embed"), _paused(counter, self._add_flops):
                return self._embed(epoch, stage, asked_to_stop)

        with clock.phase("episode"), counter:
            self._method.on_epoch(epoch, embed)
        self._add_flops(counter)

    def _add_flops(self, counter: FlopCounterMode) -> None:
        self.flops += counter.get_total_flops() * self._world.size

    def _embed(self, epoch: int, stage: Stage, asked_to_stop: Callable[[], bool]) -> Snapshot:
        """Embed this rank's rows of an episode."""
        assert self._source is not None
        steps, world = self._method.episode_steps, self._world
        tables: dict[str, Tensor] = {}
        rows = 0
        autocast = torch.autocast(world.device.type, torch.bfloat16, enabled=self._settings.bf16)
        with evaluating(self._method), autocast, stage.progress(f"embed {epoch}", steps, "batch") as progress:
            for number, batch in enumerate(self._source(epoch * steps, (epoch + 1) * steps)):
                self._leave_if_asked(number, asked_to_stop)
                rows = len(batch["image"])
                self._pair_flops = self._pair_flops or self._probe.count_snapshot(batch)
                for first, features in self._snapshot(batch):
                    for name, value in features.items():
                        table = tables.get(name)
                        if table is None:
                            table = tables[name] = _table(value, steps * rows)
                        table[number * rows + first :][: len(value)] = value
                progress.advance()
        _refuse_non_finite(tables, epoch)
        self.flops += self._pair_flops * steps * rows * world.size
        step = torch.arange(steps, device=world.device)[:, None]
        row = torch.arange(rows, device=world.device)[None, :]
        positions = (step * rows * world.size + world.rank * rows + row).flatten()
        return Snapshot(tables, positions, steps * rows * world.size, (self._settings.seed, epoch))

    def _snapshot(self, batch: Batch) -> Iterator[tuple[int, Features]]:
        """Embed a batch in parts; yield the first row of each and its features."""
        rows = self._settings.rows or len(batch["image"])
        for first in range(0, len(batch["image"]), rows):
            part = {name: value[first : first + rows] for name, value in batch.items()}
            yield first, self._method.snapshot(part)

    def _leave_if_asked(self, number: int, asked_to_stop: Callable[[], bool]) -> None:
        """Agree with the other ranks, every few batches, on whether to stop."""
        if number % _BATCHES_BETWEEN_LOOKS:
            return
        asked = torch.tensor(float(asked_to_stop()), device=self._world.device)
        if self._world.size > 1:
            dist.all_reduce(asked)
        if float(asked):
            raise StopAsked


@contextmanager
def _paused(counter: FlopCounterMode, add: Callable[[FlopCounterMode], None]) -> Generator[None]:
    """Let nothing be counted inside the block: watching every operator of the towers would slow them down."""
    add(counter)
    counter.__exit__(None, None, None)
    try:
        yield
    finally:
        counter.__enter__()  # from zero


def _table(like: Tensor, rows: int) -> Tensor:
    dtype = torch.float32 if like.is_floating_point() else like.dtype
    return torch.empty(rows, *like.shape[1:], dtype=dtype, device=like.device)


def _refuse_non_finite(tables: dict[str, Tensor], epoch: int) -> None:
    bad = [name for name, table in tables.items() if not torch.isfinite(table).all()]
    if bad:
        raise FloatingPointError(f"episode {epoch}: embeddings {', '.join(bad)} not finite; lower optim.lr")
