"""Steps to batches: reads, decodes, crops and tokenises what one rank sees in one optimiser step."""

import atexit
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from assets.features.config import INDEX_CAPTION
from assets.text_rows import TextRows
from training.data.captions import draw_captions, refuse_missing_captions
from training.data.metadata import MetadataReader, metadata_places
from training.data.objects import object_boxes
from training.data.order import SampleOrder
from training.data.pairs import PairReader, Pairs
from training.data.transforms import SampleDraws, side_of
from training.data.views import View
from training.models.text_pass import trim_text
from training.teachers.replay import Replay
from training.teachers.source import TEACHER_FEATURES

Tokenize = Callable[[list[str]], tuple[Tensor, Tensor]]
"""Captions -> token ids, int64 [B, T], and whether each caption was longer and has been cut, bool [B]."""
Batch = dict[str, Tensor]
"""What a method gets; the first dimension of every tensor is B.

``image``: a view, uint8 [B, 3, S, S], and further views of the same pairs under the names that the method gives them.
``NAME_box``, for methods that ask: top, left, height and width of a view in pixels of the whole image, and whether it
is mirrored, int64 [B, 5]. ``objects``, likewise: boxes of objects (top, left, height, width), int64 [B, 16, 4].
``text``: token ids, int64 [B, T], for towers that accept it without the columns that are padding in all rows.
``text_cut``: whether the caption was longer than the context, bool [B]. ``caption_missing``, where captions of KEY.json
are drawn: whether the pair lacked the one drawn and shows that of the index, bool [B].
``sample_id``: positions in the training pairs, int64 [B]. ``seed``: a number per sample and epoch on which the draws
inside the method depend, int64 [B].
Where adapters of a language model are trained, ``text`` is its ids plus one, of the caption and the prompt's end.
``text_rows``, where text is frozen, in place of ``text`` and ``text_cut``: unit-norm rows of its slots, [B, R, D].
``features``, in snapshots for methods that ask: unit-norm rows of all slots, not centred, [B, R, D].
``teacher_image_features`` and ``teacher_text_features``, where a teacher has been over the views before: its models'
unit-norm features side by side, [B, sum D]. ``view_seed``: then the number on which changes of colour depend, [B].
"""
_MOST_PROBED = 32
"""Pairs in which a named caption is looked for before it is refused: not each of them need have it."""


@dataclass(frozen=True, slots=True)
class ViewPlan:
    """What becomes of a pair.

    Attributes:
        views: Name in the batch -> a view of the image; ``image`` is one of them.
        tokenize: Captions -> token ids; None where text is frozen.
        trim: Whether the text tower accepts fewer tokens than the context has room for.
        image_size: Side of the views in pixels.
        seed: Decides the draws.
        text_rows: Name in the batch -> embeddings of the pairs, which are joined by key.
        boxes: Whether the batch tells the place of each view.
        objects: Whether the batch tells the places of objects.
        captions: Those of which each visit tokenises one; ``caption`` is that of the index, others are in KEY.json.
        replay: A teacher's cache, whose views are shown instead of new ones; None where there is none.
    """

    views: Mapping[str, View]
    tokenize: Tokenize | None
    image_size: int
    seed: int
    trim: bool = False
    text_rows: Mapping[str, TextRows] = field(default_factory=dict[str, TextRows])
    boxes: bool = False
    objects: bool = False
    captions: tuple[str, ...] = (INDEX_CAPTION,)
    replay: Replay | None = None

    @property
    def draws_captions(self) -> bool:
        """Whether some caption comes from KEY.json."""
        return self.tokenize is not None and any(name != INDEX_CAPTION for name in self.captions)


class StepDataset(Dataset[Batch]):
    """Item s is the whole batch of optimiser step s, so a loader resumes by starting at s."""

    def __init__(self, pairs: Pairs, order: SampleOrder, plan: ViewPlan, rank: int = 0, world_size: int = 1) -> None:
        """Prepare.

        Args:
            pairs: The training pairs.
            order: Which of them a step sees.
            plan: What becomes of each.
            rank: This process.
            world_size: Number of processes.

        Raises:
            DataError: Text rows lack pairs; or the plan wants objects or captions that the source did not write.
        """
        self._pairs, self._order, self._plan = pairs, order, plan
        self._rank, self._world_size = rank, world_size
        self._rows = {name: text_rows.join(pairs.keys) for name, text_rows in plan.text_rows.items()}
        self._taught = None if plan.replay is None else plan.replay.rows.join(pairs.keys)
        self._reader: PairReader | None = None
        self._places = metadata_places(pairs) if plan.objects or plan.draws_captions else None
        self._metadata: MetadataReader | None = None
        self._refuse_lacking()

    def _refuse_lacking(self) -> None:
        """Find a source without what the plan wants here, on every rank alike, and not in the first batch."""
        if self._places is None:
            return
        reader, plan = MetadataReader(self._pairs, self._places), self._plan
        first = self._order.batch(0)[0][:_MOST_PROBED].tolist()
        if plan.objects:
            object_boxes(reader.read(first[0]), reader.name(first[0]))
        if plan.draws_captions:
            refuse_missing_captions(plan.captions, map(reader.read, first), str(self._pairs.folder))

    def __getitem__(self, step: int) -> Batch:
        positions, epochs = self._order.batch(step, self._rank, self._world_size)
        if self._reader is None:  # opened in the process that reads
            self._reader = PairReader(self._pairs)
            self._metadata = None if self._places is None else MetadataReader(self._pairs, self._places)
        batch = self._views(self._reader, positions, epochs.tolist())
        metadata: list[dict[str, Any]] = []
        if self._metadata is not None:
            metadata = [self._metadata.read(position) for position in positions.tolist()]
            if self._plan.objects:
                names = map(self._metadata.name, positions.tolist())
                boxes = [object_boxes(told, name) for told, name in zip(metadata, names, strict=True)]
                batch["objects"] = torch.from_numpy(np.stack(boxes))
        return {**batch, **self._text(positions, metadata, batch["seed"]), "sample_id": torch.from_numpy(positions)}

    def _text(self, positions: NDArray[np.int64], metadata: list[dict[str, Any]], seed: Tensor) -> Batch:
        """Tokenise one caption of each of some pairs, and read their rows."""
        plan = self._plan
        rows = {
            name: torch.from_numpy(text_rows.rows(self._rows[name][positions]))
            for name, text_rows in plan.text_rows.items()
        }
        if plan.tokenize is None:
            return rows
        captions: list[str] = [self._pairs.captions[place].as_py() for place in positions.tolist()]
        drawn: Batch = {}
        if plan.draws_captions:
            captions, drawn["caption_missing"] = draw_captions(plan.captions, captions, metadata, seed)
        text, cut = plan.tokenize(captions)
        return {"text": trim_text(text) if plan.trim else text, "text_cut": cut, **drawn, **rows}

    def _views(self, reader: PairReader, positions: NDArray[np.int64], epochs: list[int]) -> Batch:
        """Read and cut the views of some pairs; with the samples' seeds, and what else the plan wants of views."""
        plan, count = self._plan, len(positions)
        sides = {name: side_of(view, plan.image_size) for name, view in plan.views.items()}
        images = {name: np.empty((count, side, side, 3), dtype=np.uint8) for name, side in sides.items()}
        boxes = {f"{name}_box": np.empty((count, 5), dtype=np.int64) for name in (plan.views if plan.boxes else ())}
        seeds = np.empty(count, dtype=np.int64)
        slots, view_seeds = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
        for row, (position, epoch) in enumerate(zip(positions.tolist(), epochs, strict=True)):
            key: str = self._pairs.keys[position].as_py()
            draws = SampleDraws(plan.seed, epoch, key)
            seeds[row] = draws.seed
            if plan.replay is not None:
                slots[row] = plan.replay.slot(plan.seed, epoch, key)
                draws = plan.replay.draws(int(slots[row]), key)
                view_seeds[row] = draws.seed
            for name, (pixels, crop) in reader.views(position, draws, plan.views, plan.image_size).items():
                images[name][row] = pixels
                if plan.boxes:
                    boxes[f"{name}_box"][row] = crop.box
        return {
            **{name: torch.from_numpy(pixels).permute(0, 3, 1, 2) for name, pixels in images.items()},
            **{name: torch.from_numpy(box) for name, box in boxes.items()},
            "seed": torch.from_numpy(seeds),
            **self._teacher(positions, slots, view_seeds),
        }

    def _teacher(self, positions: NDArray[np.int64], slots: NDArray[np.int64], view_seeds: NDArray[np.int64]) -> Batch:
        """Read what the teacher says of the views shown, where it has been over them."""
        if self._plan.replay is None or self._taught is None:
            return {}
        images, texts = self._plan.replay.rows.rows(self._taught[positions], slots)
        rows = zip(TEACHER_FEATURES, (images, texts), strict=True)
        return {**{name: torch.from_numpy(values) for name, values in rows}, "view_seed": torch.from_numpy(view_seeds)}

    def prefetch(self, step: int, last_step: int) -> None:
        """Have the shards that a step and those behind it need on their way, where shards are streamed.

        Args:
            step: The step about to be read.
            last_step: One past the last step of the run.
        """
        self._pairs.prefetch(self._order.shards_ahead(step, last_step))


def _ignore_signals(_worker: int) -> None:
    """Leave signals to the main process, which still wants its batch before it saves and stops."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@atexit.register
def _end_workers() -> None:
    """Kill loader processes that an error has left: Python would ask them to end by a signal they ignore, and wait."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler would print an error for each of them
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def batches(
    dataset: StepDataset, first_step: int, last_step: int, workers: int, device: torch.device
) -> Iterator[Batch]:
    """Yield the batches of steps ``first_step .. last_step - 1`` in order.

    Args:
        dataset: Where a step becomes a batch.
        first_step: The step to begin with.
        last_step: One past the last step.
        workers: Loader processes; the result does not depend on it.
        device: Where the tensors go; to a GPU through page-locked memory, one batch ahead.
    """
    workers = min(workers, last_step - first_step)
    loader: DataLoader[Batch] = DataLoader(
        dataset,
        batch_size=None,
        sampler=range(first_step, last_step),
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        pin_memory=device.type == "cuda",
        worker_init_fn=_ignore_signals,
    )
    source = _copied_ahead(iter(loader), device) if device.type == "cuda" else iter(loader)
    for step in range(first_step, last_step):
        dataset.prefetch(step, last_step)
        yield next(source)


def _copied_ahead(source: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Copy each batch to the GPU while the step before it computes."""
    side = torch.cuda.Stream(device)

    def copy() -> Batch | None:
        batch = next(source, None)
        if batch is None:
            return None
        with torch.cuda.stream(side):
            return {name: value.to(device, non_blocking=True) for name, value in batch.items()}

    coming = copy()
    while coming is not None:
        torch.cuda.current_stream(device).wait_stream(side)
        for value in coming.values():
            value.record_stream(torch.cuda.current_stream(device))
        present, coming = coming, copy()
        yield present
