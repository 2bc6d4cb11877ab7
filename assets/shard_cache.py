"""A bounded folder of local copies of shards that lie in an object store, shared by all processes of a machine.

Objects never change under their name here: a copy is checked when it is made and trusted from then on. Loader workers
and ranks share one folder. Whoever lacks a shard takes the shard's lock and downloads it; whoever wants it meanwhile
waits. When a download would exceed the limit, the least recently opened copies go first. A reader keeps the file it
has open, because Linux frees an unlinked file only when the last descriptor on it is closed; so readers should open
through :meth:`ShardCache.open` and close what :func:`evicted` reports, or the disk holds more than the limit.
"""

import fcntl
import hashlib
import os
import re
import threading
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assets.atomic import fsync_folder
from assets.config import load_machine, read_sections
from assets.errors import ConfigError, DataError, StoreError, message
from assets.section import parse
from assets.shard_download import CACHE_SETTING, SCHEME, download, full_disk, is_url, list_keys, read_range, split_url
from assets.store import STORE_FOLDER, Store, StoreConfig, open_store

_LOCKS, _ROOM = ".locks", "room"
_PARTIAL = ".partial"
_SECONDS_BETWEEN_LOOKS = 0.2
GIB = 1 << 30


class _NoRoomError(Exception):
    """A shard fetched ahead would push out one that is wanted sooner."""


@dataclass(slots=True)
class _Local:
    """What belongs to one process: a fork must share neither connections nor threads with its parent.

    Attributes:
        pid: The process.
        stores: Bucket -> connection.
        wanted: The URLs of the last call of ``prefetch``.
    """

    pid: int
    stores: dict[str, Store] = field(default_factory=dict[str, Store])
    wanted: tuple[str, ...] = ()


class ShardCache:
    """Local copies of shards, at most so many bytes of them.

    Attributes:
        folder: Where the copies lie; a folder of its own on a disk of this machine.
        limit_bytes: The most that copies and running downloads take together.
    """

    def __init__(
        self, folder: Path, limit_bytes: int, store: StoreConfig, credentials_folder: Path = STORE_FOLDER
    ) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        self._config, self._credentials_folder = store, credentials_folder
        self._local = _Local(os.getpid())

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to a spawned worker as settings; connections and threads are made where they are needed."""
        return ShardCache, (self.folder, self.limit_bytes, self._config, self._credentials_folder)

    def path(self, url: str) -> Path:
        """Return the local copy of a shard, downloaded first when there is none.

        Args:
            url: ``s3://BUCKET/KEY``.

        Returns:
            A complete file. Another process may evict it at any time: to keep reading it, use :meth:`open`.

        Raises:
            DataError: The URL is malformed, or the store has no such bucket or object.
            StoreError: The store does not answer or refuses, keys are missing, or the disk is full.
            ConfigError: The shard is larger than the whole cache.
        """
        os.close(self.open(url))
        return self._target(url)

    def open(self, url: str, at_least: int = 0) -> int:
        """Open the local copy of a shard, downloaded first when there is none.

        Args:
            url: ``s3://BUCKET/KEY``.
            at_least: Bytes that the index says the shard has; a smaller object is refused.

        Returns:
            A descriptor to read from; stays good when the copy is evicted. The caller closes it.

        Raises:
            DataError: As :meth:`path`, or the object is smaller than ``at_least``.
            StoreError: As :meth:`path`.
            ConfigError: As :meth:`path`.
        """
        target = self._target(url)
        try:
            descriptor = os.open(target, os.O_RDONLY)
        except FileNotFoundError:
            # nobody evicts a shard whose lock is taken, so it cannot vanish between download and opening
            with self._lock(target.name):
                if not target.exists():
                    self._fetch(url, target, frozenset())
                descriptor = os.open(target, os.O_RDONLY)
        os.utime(descriptor)  # the order of eviction
        size = os.fstat(descriptor).st_size
        if size < at_least:
            os.close(descriptor)
            target.unlink(missing_ok=True)  # so that a mended object is fetched anew
            raise DataError(
                message(
                    f"shard {url} is smaller than the index says",
                    size,
                    f"at least {at_least} bytes",
                    "upload it again, or make index.parquet anew",
                )
            )
        return descriptor

    def read(self, url: str, offset: int, size: int) -> bytes:
        """Read a part of a shard: from its local copy if there is one, else from the store, without making a copy.

        Args:
            url: ``s3://BUCKET/KEY``.
            offset: First byte.
            size: Bytes wanted.

        Returns:
            The bytes; fewer when the shard ends before.

        Raises:
            DataError: As :meth:`path`.
            StoreError: As :meth:`path`.
        """
        try:
            descriptor = os.open(self._target(url), os.O_RDONLY)
        except FileNotFoundError:
            bucket, key = split_url(url)
            return read_range(self._store(bucket), key, offset, size) if size else b""
        try:
            return os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)

    def urls(self, prefix: str) -> list[str]:
        """Return the URLs of the objects whose URL begins with ``prefix``, sorted.

        Args:
            prefix: ``s3://BUCKET/`` and the begin of a key.

        Raises:
            DataError: As :meth:`path`.
            StoreError: As :meth:`path`.
        """
        bucket, _, key = prefix.removeprefix(SCHEME).partition("/")
        return [f"{SCHEME}{bucket}/{name}" for name in sorted(list_keys(self._store(bucket), key))]

    def prefetch(self, urls: Sequence[str]) -> None:
        """Start to download coming shards in a background thread of this process, and return at once.

        Shards that another process is fetching already are left to it, so that several processes with one list share
        the work. The thread stops before it would evict a shard of the list. What goes wrong in it is not lost:
        :meth:`open` meets the same failure and raises it.

        Args:
            urls: What is read now and next, in order of use. Costs nothing when it is the list of the last call;
                another list takes its place after the shard that is just being fetched.
        """
        here, wanted = self._here(), tuple(urls)
        if wanted == here.wanted:
            return
        here.wanted = wanted
        # a daemon: an exit must not wait for a download; its partial file is no copy and gets replaced
        threading.Thread(target=self._fetch_ahead, args=(here, wanted), name="shard-prefetch", daemon=True).start()

    def _here(self) -> _Local:
        if self._local.pid != os.getpid():
            self._local = _Local(os.getpid())
        return self._local

    def _store(self, bucket: str) -> Store:
        stores = self._here().stores
        if bucket not in stores:
            stores[bucket] = open_store(self._config.model_copy(update={"bucket": bucket}), self._credentials_folder)
        return stores[bucket]

    def _target(self, url: str) -> Path:
        _, key = split_url(url)
        digest = hashlib.blake2b(f"{self._config.endpoint} {url}".encode(), digest_size=8).hexdigest()
        return self.folder / f"{digest}-{re.sub(r'[^A-Za-z0-9._-]', '_', key)[-80:]}"

    @contextmanager
    def _lock(self, name: str, wait: bool = True) -> Generator[bool]:
        """Hold the lock of a shard; yields whether it was to be had.

        Lock files are empty and stay: whoever removed one could not know that nobody else waits for it.
        """
        locks = self.folder / _LOCKS
        locks.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(locks / name, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            try:
                yield True
            finally:
                # not left to close: a worker forked meanwhile has a copy of the descriptor and would keep the lock
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)

    def _fetch(self, url: str, target: Path, keep: frozenset[str]) -> None:
        """Download a shard whose lock we hold; ``keep`` names the copies that must not make room for it."""
        bucket, key = split_url(url)
        partial = target.with_name(target.name + _PARTIAL)
        try:
            download(self._store(bucket), key, partial, lambda size: self._reserve(url, size, partial, keep))
            with self._lock(_ROOM):  # so that whoever counts the files meets it once
                partial.replace(target)
            fsync_folder(self.folder)
        finally:
            partial.unlink(missing_ok=True)

    def _reserve(self, url: str, size: int, partial: Path, keep: frozenset[str]) -> None:
        """Make room for a download and claim it by giving the partial file its full length."""
        if size > self.limit_bytes:
            raise ConfigError(
                message(
                    f"shard {url} is larger than the cache of shards",
                    round(size / GIB, 2),
                    f"at most {self.limit_bytes / GIB:.2f} GiB",
                    f"raise {CACHE_SETTING}",
                )
            )
        while not self._claim(size, partial, keep):
            if keep:
                raise _NoRoomError
            time.sleep(_SECONDS_BETWEEN_LOOKS)  # other downloads take all the room; finished ones can be evicted

    def _claim(self, size: int, partial: Path, keep: frozenset[str]) -> bool:
        with self._lock(_ROOM):
            files = self._files(partial)
            used = sum(taken for _, taken, _ in files)
            for _, taken, path in files:
                if used + size <= self.limit_bytes:
                    break
                if path.name not in keep and self._evict(path):
                    used -= taken
            if used + size > self.limit_bytes:
                return False
            status = os.statvfs(self.folder)
            free = status.f_bavail * status.f_frsize
            if free < size:
                raise full_disk(self.folder, size, free)
            with partial.open("wb") as stream:
                stream.truncate(size)
            return True

    def _files(self, but: Path) -> list[tuple[int, int, Path]]:
        """Return (time of the last opening, bytes, path) of copies and partial files, least recently opened first."""
        found: list[tuple[int, int, Path]] = []
        for path in self.folder.iterdir():
            if path == but or path.name == _LOCKS:
                continue
            with suppress(FileNotFoundError):  # a download that failed has removed its partial file
                facts = path.stat()
                found.append((facts.st_mtime_ns, facts.st_size, path))
        return sorted(found)

    def _evict(self, path: Path) -> bool:
        """Remove a copy or a dead process's partial file, unless its lock is taken: then it is just being made."""
        with self._lock(path.name.removesuffix(_PARTIAL), wait=False) as free:
            if free:
                path.unlink(missing_ok=True)
            return free

    def _fetch_ahead(self, here: _Local, wanted: tuple[str, ...]) -> None:
        """Run in the background thread: download what is missing of ``wanted`` until that list is out of date."""
        try:
            targets = {url: self._target(url) for url in wanted}
        except DataError:
            return  # open() raises it where it can be reported
        keep = frozenset(target.name for target in targets.values())
        for url, target in targets.items():
            if here.wanted is not wanted:
                return
            if target.exists():
                continue
            try:
                with self._lock(target.name, wait=False) as free:
                    if free and not target.exists():
                        self._fetch(url, target, keep)
            except _NoRoomError:
                return
            except (StoreError, DataError, ConfigError, OSError):
                continue  # open() meets it again where it can be reported


def evicted(descriptor: int) -> bool:
    """Say whether the copy behind a descriptor is gone, so that only closing the descriptor frees its disk space."""
    return os.fstat(descriptor).st_nlink == 0


def cache_for(shards: Iterable[str], params: Path) -> ShardCache | None:
    """Return the cache of params.yaml if some shard needs one, else None.

    Args:
        shards: Shards as the index names them: paths or URLs.
        params: The params.yaml to read, for URLs only.

    Raises:
        ConfigError: As :func:`load_shard_cache`.
    """
    return load_shard_cache(params) if any(is_url(shard) for shard in shards) else None


def load_shard_cache(params: Path, credentials_folder: Path = STORE_FOLDER) -> ShardCache:
    """Return the cache that params.yaml describes (``machine.shard_cache*``, ``store``); nothing is sent yet.

    Args:
        params: The params.yaml to read.
        credentials_folder: Where ``credentials.json`` lives.

    Raises:
        ConfigError: A wrong value in the sections ``machine`` and ``store``.
    """
    machine = load_machine(params)
    store = parse(StoreConfig, read_sections(params)["store"], f"{params}: store")
    return ShardCache(Path(machine.shard_cache), int(machine.shard_cache_gib * GIB), store, credentials_folder)
