"""Open shards of a data set: a bounded number of descriptors, on local files or on copies of stored objects."""

import os
import time
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from assets.errors import ConfigError, DataError, message
from assets.members import locate_shard
from assets.shard_cache import ShardCache, evicted
from assets.shard_download import is_url

_MOST_OPEN = 256
"""Far below the 1024 that Linux allows a process by default, and enough for the shards of a window."""
_SECONDS_BETWEEN_SWEEPS = 2.0


class ShardFiles:
    """Descriptors of shards by number, the least recently used ones closed; closes all when nobody needs it."""

    def __init__(
        self, folder: Path, shards: Sequence[str], at_least: Sequence[int] = (), cache: ShardCache | None = None
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            folder: The raw data set.
            shards: Paths relative to ``folder``, or URLs.
            at_least: Bytes that each shard has by the index; needed for URLs only.
            cache: Where copies of stored shards lie.

        Raises:
            ConfigError: A shard is a URL, and there is no cache.
        """
        stored = next((shard for shard in shards if is_url(shard)), None)
        if stored is not None and cache is None:
            raise ConfigError(
                message(
                    f"shards of {folder} lie in an object store ({stored}), and this stage reads local ones only",
                    fix="ingest a local copy of the data set",
                )
            )
        self._folder, self._shards, self._at_least, self._cache = folder, shards, at_least, cache
        self._open: OrderedDict[int, int] = OrderedDict()
        self._swept = time.monotonic()
        weakref.finalize(self, _close, self._open)

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """Read from a shard.

        Args:
            shard: Its number.
            offset: First byte.
            size: Bytes wanted.

        Returns:
            Exactly ``size`` bytes.

        Raises:
            DataError: The shard is missing or ends too early.
            StoreError: The store of a URL fails; see :meth:`assets.shard_cache.ShardCache.open`.
        """
        descriptor = self._open.get(shard)
        if descriptor is None:
            descriptor = self._add(shard)
        else:
            self._open.move_to_end(shard)
        data = os.pread(descriptor, size, offset)
        if len(data) != size:
            raise DataError(
                message(
                    f"shard {self.name(shard)} ends inside a sample",
                    len(data),
                    f"{size} bytes at {offset}",
                    'it has changed since validation: rerun "dvc repro"',
                )
            )
        return data

    def name(self, shard: int) -> str:
        """Return a shard's path or URL, for messages."""
        return locate_shard(self._folder, self._shards[shard])

    def _add(self, shard: int) -> int:
        if len(self._open) >= _MOST_OPEN:
            os.close(self._open.popitem(last=False)[1])
        name = self._shards[shard]
        if is_url(name):
            assert self._cache is not None, "checked when this object was made"
            self._close_evicted()
            descriptor = self._cache.open(name, self._at_least[shard])
        else:
            try:
                descriptor = os.open(self._folder / name, os.O_RDONLY)
            except FileNotFoundError as error:
                raise DataError(message(f"shard {self.name(shard)} is missing", fix='rerun "dvc repro"')) from error
        self._open[shard] = descriptor
        return descriptor

    def _close_evicted(self) -> None:
        """Give back the disk space of copies that the cache has evicted; not at every opening, for there are many."""
        if time.monotonic() - self._swept < _SECONDS_BETWEEN_SWEEPS:
            return
        for shard, descriptor in list(self._open.items()):
            if evicted(descriptor):
                os.close(self._open.pop(shard))
        self._swept = time.monotonic()


def _close(descriptors: OrderedDict[int, int]) -> None:
    while descriptors:
        os.close(descriptors.popitem()[1])
