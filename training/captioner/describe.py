"""Describe pairs with a finished captioner: codes of the image, a caption of its own, and how likely it finds theirs.

Images are shown whole, in evaluation mode. A shard is the unit of work: its captions are written first, then its codes,
whose key list marks it as done; processes take every W-th shard. Batches do not cross shards, so neither a kill nor the
number of processes changes a result.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from assets.index import write_table
from assets.progress import Progress, Stage
from assets.sidecar import SidecarWriter
from training.captioner.config import CaptionerConfig
from training.captioner.generate import write_captions
from training.captioner.model import CaptionModel
from training.data.pairs import PairReader, Pairs
from training.data.tokens import CaptionTokenizer
from training.data.transforms import SampleDraws
from training.data.views import ViewsConfig
from training.engine.distributed import World
from training.losses.caption import mean_log_probabilities

SPLIT = "train"
SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("mean_log_probability", pa.float32(), nullable=False),
        pa.field("likelihood", pa.float32(), nullable=False),
    ]
)
_WHOLE = {"image": ViewsConfig(crop_area=(1.0, 1.0))}
_SECONDS_BETWEEN_LOOKS = 1.0


class _Described(NamedTuple):
    """Of some pairs: codes, uint16 [b, L]; captions with their log probabilities; likelihoods of their own captions."""

    codes: NDArray[np.uint16]
    captions: list[str]
    certainty: list[float]
    likelihood: list[float]


class _Chunk(NamedTuple):
    """Some pairs of one shard: positions ``start`` to ``stop``, and whether they are the last of it."""

    shard: int
    start: int
    stop: int
    last: bool


class _Images(Dataset[Tensor]):
    """Item i is the images of chunk i, whole, uint8 [b, 3, S, S]."""

    def __init__(self, pairs: Pairs, chunks: list[_Chunk], size: int) -> None:
        self._pairs, self._chunks, self._size = pairs, chunks, size
        self._reader: PairReader | None = None

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, number: int) -> Tensor:
        if self._reader is None:  # opened in the process that reads
            self._reader = PairReader(self._pairs)
        chunk, size = self._chunks[number], self._size
        images = np.empty((chunk.stop - chunk.start, size, size, 3), dtype=np.uint8)
        for row, position in enumerate(range(chunk.start, chunk.stop)):
            draws = SampleDraws(0, 0, self._pairs.keys[position].as_py())
            images[row] = self._reader.views(position, draws, _WHOLE, size)["image"][0]
        return torch.from_numpy(images).permute(0, 3, 1, 2)


@dataclass(slots=True)
class _Speed:
    """Seconds by what was done in them."""

    images: int = 0
    codes: float = 0.0
    captions: float = 0.0


class Describer:
    """Describes the pairs of this rank's shards.

    Attributes:
        codes: The sidecar being filled.
    """

    def __init__(self, model: CaptionModel, config: CaptionerConfig, pairs: Pairs, folder: Path) -> None:
        """Prepare.

        Args:
            model: In evaluation mode, on its device.
            config: Its entry in params.yaml.
            pairs: What to describe, in index order.
            folder: Gets ``codes`` and ``captions``; a killed run goes on with what is there.
        """
        self._model, self._config, self._pairs = model, config, pairs
        self.codes = SidecarWriter(folder / "codes", "uint16", (config.code_length,))
        self._folder = folder / "captions"
        self._tokenizer = SimpleTokenizer()
        self._encode = CaptionTokenizer(config.decoder.context_length).encode
        self._speed = _Speed()
        begins = np.searchsorted(pairs.shard, np.arange(len(pairs.shards) + 1))
        self._begins: list[int] = begins.tolist()

    @property
    def shards(self) -> list[str]:
        """Names of the shards, in index order."""
        return [f"{SPLIT}/{number:05d}" for number in range(len(self._pairs.shards))]

    @property
    def codebook(self) -> NDArray[np.float32]:
        """The codes themselves, [K, d]."""
        return self._model.quantiser.codebook.detach().cpu().float().numpy()

    def _part(self, shard: int) -> Path:
        return self._folder / f"{shard:05d}.parquet"

    def run(self, world: World, workers: int, stage: Stage) -> None:
        """Describe what is left of this rank's shards.

        Args:
            world: The ranks.
            workers: Processes that read images.
            stage: Progress and log.
        """
        names, done = self.shards, set(self.codes.done_shards())
        mine = [number for number in range(len(names)) if number % world.size == world.rank]
        left = [number for number in mine if names[number] not in done or not self._part(number).is_file()]
        total, todo = (sum(map(self._length, numbers)) for numbers in (mine, left))
        if not left:
            return
        with stage.progress("describe", total, "pair", total - todo) as progress:
            self._describe(left, world.device, workers, progress)
        speed = self._speed
        stage.log.info(
            "%s: %d images, %.1f a second through the codebook, %.1f captions a second behind it",
            *(stage.name, speed.images, speed.images / max(speed.codes, 1e-9)),
            speed.images / max(speed.captions, 1e-9),
        )

    def _length(self, shard: int) -> int:
        return self._begins[shard + 1] - self._begins[shard]

    def _chunks(self, shards: list[int]) -> Iterator[_Chunk]:
        size = self._config.describe.batch_size
        for shard in shards:
            begin, end = self._begins[shard], self._begins[shard + 1]
            for start in range(begin, end, size):
                yield _Chunk(shard, start, min(start + size, end), start + size >= end)

    def _describe(self, left: list[int], device: torch.device, workers: int, progress: Progress) -> None:
        chunks = list(self._chunks(left))
        images = _Images(self._pairs, chunks, self._config.image_size)
        loader: DataLoader[Tensor] = DataLoader(images, batch_size=None, num_workers=min(workers, len(chunks)))
        parts: list[_Described] = []
        for number, (chunk, image) in enumerate(zip(chunks, loader, strict=True)):
            if number == 0 or chunk.shard != chunks[number - 1].shard:
                place = left.index(chunk.shard)
                self._pairs.prefetch(left[place : place + 2])
            own = self._pairs.captions.slice(chunk.start, len(image)).to_pylist()
            parts.append(self._one(image.to(device), own))
            progress.advance(len(image), caption=parts[-1].captions[0])
            if chunk.last:
                self._write(chunk.shard, parts)
                parts = []

    @torch.no_grad()
    def _one(self, image: Tensor, own: list[str]) -> _Described:
        """Describe a batch of images, uint8 [b, 3, S, S], with captions."""
        begin = time.perf_counter()
        mean, std = (image.new_tensor(v, dtype=torch.float32) for v in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
        quantised = self._model.quantise((image.float() / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1))
        codes = quantised.codes.cpu().numpy().astype(np.uint16)
        middle = time.perf_counter()
        written = write_captions(self._model.decoder, quantised.tokens, self._config.describe)
        texts = self._model.vocabulary.spell(written.text.cpu(), self._tokenizer)
        ids, labels = self._model.vocabulary.number(*(part.to(image.device) for part in self._encode(own)))
        likelihood = mean_log_probabilities(self._model.decoder(ids, quantised.tokens), labels)
        self._speed.images += len(image)
        self._speed.codes += middle - begin
        self._speed.captions += time.perf_counter() - middle
        return _Described(codes, texts, written.mean_log_probability.tolist(), likelihood.tolist())

    def _write(self, shard: int, parts: list[_Described]) -> None:
        keys = self._pairs.keys.slice(self._begins[shard], self._length(shard))
        columns: dict[str, Any] = {
            "key": keys,
            "caption": [caption for part in parts for caption in part.captions],
            "mean_log_probability": [value for part in parts for value in part.certainty],
            "likelihood": [value for part in parts for value in part.likelihood],
        }
        write_table(pa.table(columns, schema=SCHEMA), self._part(shard))
        self.codes.write_shard(self.shards[shard], keys, np.concatenate([part.codes for part in parts]))

    def wait(self, stage: Stage) -> None:
        """Wait for the shards of the other processes; torchrun ends this one if one of them fails."""
        wanted, told = set(self.shards), False
        while missing := wanted - set(self.codes.done_shards()):
            if not told:
                stage.log.info("%s: waiting for %d shards of other processes", stage.name, len(missing))
                told = True
            time.sleep(_SECONDS_BETWEEN_LOOKS)

    def captions(self) -> pa.Table:
        """Return the captions of all shards, in index order; all must be done."""
        return pa.concat_tables([pq.read_table(self._part(number)) for number in range(len(self.shards))])
