"""The accepted training pairs of a data set: what the index and validation say, joined by key, and how to read one."""

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from assets.errors import ConfigError, DataError, message
from assets.index import accepted_rows
from assets.picture import PictureError
from assets.reduction.plan import Plan
from assets.shard_cache import GIB, ShardCache
from assets.shard_download import CACHE_SETTING, is_url
from training.data.decode import decode, decode_views
from training.data.shard_files import ShardFiles
from training.data.transforms import CropDraw, SampleDraws
from training.data.views import View

_COLUMNS = ["key", "shard", "image_offset", "image_size", "caption"]


@dataclass(frozen=True)
class Pairs:
    """Image-caption pairs in index order, image bytes left in the shards.

    Attributes:
        folder: The raw data set.
        shards: Shards as the index names them: paths relative to ``folder``, or URLs ``s3://BUCKET/KEY``.
        shard: Number of each pair's shard, [n].
        offset: Byte offset of each image in its shard, [n].
        size: Bytes of each image, [n].
        keys: Sample keys, [n].
        captions: Captions, [n].
        cache: Local copies of the shards that are URLs; None when all are local.
    """

    folder: Path
    shards: tuple[str, ...]
    shard: NDArray[np.int32]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    keys: pa.StringArray
    captions: pa.StringArray
    cache: ShardCache | None = None

    def __len__(self) -> int:
        return len(self.shard)

    @property
    def stored(self) -> bool:
        """Whether some shard lies in an object store, so that reading needs a cache."""
        return any(is_url(shard) for shard in self.shards)

    @property
    def shard_sizes(self) -> NDArray[np.int64]:
        """Pairs of each shard, [len(shards)].

        Raises:
            DataError: The pairs of some shard do not stand together.
        """
        if np.any(np.diff(self.shard) < 0):
            raise DataError(message(f"the index of {self.folder} is not in shard order", fix="make it anew"))
        return np.bincount(self.shard, minlength=len(self.shards))

    @property
    def shard_bytes(self) -> NDArray[np.int64]:
        """End of the last image in each shard: what the file has at least, and nearly what it has, [len(shards)]."""
        ends = np.zeros(len(self.shards), dtype=np.int64)
        np.maximum.at(ends, self.shard, self.offset + self.size)
        return ends

    def prefetch(self, shards: Iterable[int]) -> None:
        """Start to download coming shards in the background; does nothing for local ones.

        Args:
            shards: Their numbers, in order of use.
        """
        if self.cache is not None:
            self.cache.prefetch([self.shards[shard] for shard in shards if is_url(self.shards[shard])])


def load_pairs(raw: Path, valid: Path, split: str = "train", plan: Plan | None = None) -> Pairs:
    """Join the index of a data set with the keys that validation accepted, and with those that a policy kept.

    Args:
        raw: Folder of ``ingest``.
        valid: Folder of ``validate``.
        split: The split to take.
        plan: Which pairs to take, and with which captions; None takes all accepted ones as they are.

    Returns:
        The pairs in index order.

    Raises:
        DataError: The split has no accepted pair, validation accepted keys that the index does not have, or the plan
            keeps none, or pairs that are not accepted.
    """
    index = accepted_rows(raw, valid, _COLUMNS, split)
    if plan is not None:
        index = _planned(index, plan)
    encoded = index.column("shard").combine_chunks().dictionary_encode()
    return Pairs(
        folder=raw,
        shards=tuple(encoded.dictionary.to_pylist()),
        shard=encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32),
        offset=index.column("image_offset").to_numpy(),
        size=index.column("image_size").to_numpy(),
        keys=index.column("key").combine_chunks(),
        captions=index.column("caption").combine_chunks(),
    )


def _planned(index: pa.Table, plan: Plan) -> pa.Table:
    """Return the rows that a plan keeps, with its captions where it has some."""
    if not len(plan.kept):
        raise DataError(message("the policy keeps no pair", fix="let its steps keep more"))
    index = index.filter(pc.field("key").isin(plan.kept))
    # both are in index order, so equal keys are equal rows
    if not index.column("key").combine_chunks().equals(plan.kept):
        what = f"the policy keeps {len(plan.kept)} pairs, of which {len(index)} stand in the index in this order"
        raise DataError(message(what, fix='rerun "dvc repro reduce"'))
    captions = pc.coalesce(plan.captions, index.column("caption").combine_chunks())  # pyright: ignore[reportAttributeAccessIssue]
    return index.set_column(index.column_names.index("caption"), "caption", captions)


def check_cache(pairs: Pairs, window: int) -> None:
    """Refuse a cache in which shards would be downloaded again and again within an epoch.

    Args:
        pairs: The training pairs, with their cache if they have one.
        window: Shards that are shuffled together; 0 for all.

    Raises:
        ConfigError: With the numbers.
    """
    if pairs.cache is None:
        return
    taken = np.sort(pairs.shard_bytes[[is_url(shard) for shard in pairs.shards]])
    needed = int(taken[-2 * window :].sum())  # the window in use and the one after it; all shards when window is 0
    if needed > pairs.cache.limit_bytes:
        what = f"two windows of {window} shards" if window else "the shards, shuffled all together,"
        change = "lower recipes.*.shuffle_window" if window else "set recipes.*.shuffle_window to a few shards"
        raise ConfigError(
            message(
                f"{what} do not fit the cache of {CACHE_SETTING}",
                round(pairs.cache.limit_bytes / GIB, 2),
                f"{needed / GIB:.2f} GiB",
                f"raise it, or {change}",
            )
        )


class PairReader:
    """Reads images by offset; one reader per process."""

    def __init__(self, pairs: Pairs) -> None:
        """Prepare; nothing is opened yet.

        Args:
            pairs: What to read, with a cache if shards are URLs.

        Raises:
            ConfigError: A shard is a URL, and there is no cache.
        """
        self._pairs = pairs
        at_least = pairs.shard_bytes.tolist() if pairs.stored else []
        self._files = ShardFiles(pairs.folder, pairs.shards, at_least, pairs.cache)

    def read(self, position: int) -> bytes:
        """Read the image file of one pair.

        Args:
            position: Place in ``pairs``.

        Raises:
            DataError: The shard is missing or too short.
            StoreError: The store of a shard that is a URL fails.
        """
        pairs = self._pairs
        return self._files.read(int(pairs.shard[position]), int(pairs.offset[position]), int(pairs.size[position]))

    def image(self, position: int) -> NDArray[np.uint8]:
        """Read and decode the image of one pair.

        Args:
            position: Place in ``pairs``.

        Returns:
            Pixels, [height, width, 3].

        Raises:
            DataError: The bytes there are no image; the shard has changed since validation, or is missing.
            StoreError: The store of a shard that is a URL fails.
        """
        with self._explained(position):
            return decode(self.read(position))

    def views(
        self, position: int, draws: SampleDraws, views: Mapping[str, View], size: int
    ) -> dict[str, tuple[NDArray[np.uint8], CropDraw]]:
        """Read one pair's image and cut random views out of it.

        Args:
            position: Place in ``pairs``.
            draws: The sample's draws.
            views: Name -> what to draw.
            size: Side of the square views; a containing view may be smaller.

        Returns:
            Name -> the view, [size, size, 3], and its crop in pixels of the whole image.

        Raises:
            DataError: As :meth:`image`.
            StoreError: As :meth:`image`.
        """
        with self._explained(position):
            return decode_views(self.read(position), draws, views, size)

    @contextmanager
    def _explained(self, position: int) -> Generator[None]:
        """Say which sample a fault of the decoder is about."""
        pairs = self._pairs
        try:
            yield
        except PictureError as error:
            shard = self._files.name(int(pairs.shard[position]))
            raise DataError(
                message(
                    f"sample {pairs.keys[position]} in {shard} cannot be decoded ({error})",
                    fix='the shard has changed since validation: rerun "dvc repro"',
                )
            ) from error
