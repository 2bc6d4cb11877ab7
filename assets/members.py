"""Read one picture or JSON text from where the index says it lies: a shard of the folder, another tar, a stored object.

For single members here and there. Training reads whole shards instead, through ``training.data.shard_files``.
"""

import os
from io import BufferedReader
from pathlib import Path

from assets.errors import ConfigError, DataError, message
from assets.shard_cache import ShardCache
from assets.shard_download import is_url


def locate_shard(folder: Path, shard: str) -> str:
    """Return where a shard lies, as the index of a data folder names it: its URL, or its path with the folder's."""
    return shard if is_url(shard) else str(folder / shard)


def open_shard(shard: str, cache: ShardCache | None = None) -> BufferedReader:
    """Open a whole shard outside a data folder for reading.

    Args:
        shard: A path, or a URL ``s3://BUCKET/KEY``.
        cache: Takes a copy of stored shards; needed for URLs.

    Returns:
        The open file; the caller closes it.

    Raises:
        DataError: The store has no such object.
        StoreError: The store fails.
        ConfigError: The shard is a URL, and there is no cache.
        OSError: The file cannot be opened.
    """
    if is_url(shard):
        return os.fdopen(_needed(cache, shard).open(shard), "rb")
    return Path(shard).open("rb")


def stored_urls(prefix: str, cache: ShardCache | None) -> list[str]:
    """Return the URLs of stored objects that begin with a text, sorted.

    Args:
        prefix: ``s3://BUCKET/`` and the begin of a key.
        cache: Knows the object store.

    Raises:
        DataError: The store has no such bucket.
        StoreError: The store fails.
        ConfigError: There is no cache.
    """
    return _needed(cache, prefix).urls(prefix)


def read_member(folder: Path, shard: str, offset: int, size: int, cache: ShardCache | None = None) -> bytes:
    """Read a member.

    Args:
        folder: The raw data folder.
        shard: The shard as the index names it: a path relative to ``folder``, or a URL ``s3://BUCKET/KEY``.
        offset: ``image_offset`` or ``metadata_offset`` of the index.
        size: ``image_size`` or ``metadata_size`` of the index.
        cache: Knows the object store; needed for URLs.

    Returns:
        Exactly ``size`` bytes.

    Raises:
        DataError: The shard is missing or ends too early.
        StoreError: The store of a URL fails.
        ConfigError: The shard is a URL, and there is no cache.
    """
    if is_url(shard):
        content = _needed(cache, shard).read(shard, offset, size)
    else:
        try:
            with (folder / shard).open("rb") as stream:
                stream.seek(offset)
                content = stream.read(size)
        except FileNotFoundError as error:
            raise DataError(
                message(f"shard {folder / shard} is missing", fix='rerun "python -m assets ingest"')
            ) from error
    if len(content) != size:
        raise DataError(message(f"shard {shard} ends inside a sample", len(content), f"{size} bytes at {offset}"))
    return content


def _needed(cache: ShardCache | None, shard: str) -> ShardCache:
    if cache is None:
        raise ConfigError(message(f"shard {shard} lies in an object store, and no store is configured here"))
    return cache
