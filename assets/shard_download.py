"""Download one object of an S3 store into a file: checked against what the server says, with a few retries."""

import errno
import hashlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import urllib3
from minio.error import MinioException, S3Error, ServerError
from urllib3.response import BaseHTTPResponse

from assets.errors import DataError, StoreError, message
from assets.store import Store

SCHEME = "s3://"
CACHE_SETTING = "machine.shard_cache_gib"
_CHUNK = 1 << 20
_PAUSES = (0.5, 1.0, 2.0, 4.0)
_T = TypeVar("_T")
_TRANSIENT_STATUS = (408, 429, 500, 502, 503, 504)
_CUSTOMER_KEY, _ENCRYPTION = "x-amz-server-side-encryption-customer-algorithm", "x-amz-server-side-encryption"


class _DamagedTransferError(Exception):
    """What arrived is not what the server announced."""


def is_url(shard: str) -> bool:
    """Say whether a shard of an index lies in an object store rather than in the raw folder."""
    return shard.startswith(SCHEME)


def split_url(url: str) -> tuple[str, str]:
    """Take ``s3://BUCKET/KEY`` apart.

    Args:
        url: A shard of an index.

    Returns:
        Bucket and key.

    Raises:
        DataError: It is not of that form.
    """
    match = re.fullmatch(r"s3://([^/]+)/(.+)", url)
    if match is None:
        raise DataError(message("the URL of a shard is wrong", url, "s3://BUCKET/KEY", "correct it in index.parquet"))
    return match[1], match[2]


def download(store: Store, key: str, target: Path, reserve: Callable[[int], None]) -> None:
    """Write an object to a file and flush it to disk.

    Args:
        store: The connection; ``store.config.bucket`` is the bucket.
        key: The object's name.
        target: The file; what it holds is replaced.
        reserve: Called with the object's size before its bytes are read; raises to give the download up.

    Raises:
        DataError: The store has no such bucket or object.
        StoreError: The store does not answer, refuses, keeps sending something else, or the disk is full.
    """
    _persistently(store, key, lambda: _transfer(store, key, target, reserve))


def read_range(store: Store, key: str, offset: int, size: int) -> bytes:
    """Read a part of an object.

    Args:
        store: The connection; ``store.config.bucket`` is the bucket.
        key: The object's name.
        offset: First byte.
        size: Bytes wanted, at least 1.

    Returns:
        The bytes; fewer when the object ends before.

    Raises:
        DataError: The store has no such bucket or object.
        StoreError: The store does not answer or refuses.
    """
    return _persistently(store, key, lambda: _read_range(store, key, offset, size))


def list_keys(store: Store, prefix: str) -> list[str]:
    """Return the names of the objects of a bucket that begin with a text.

    Args:
        store: The connection; ``store.config.bucket`` is the bucket.
        prefix: Begin of the names.

    Raises:
        DataError: The store has no such bucket.
        StoreError: The store does not answer or refuses.
    """

    def names() -> list[str]:
        found = store.client.list_objects(store.config.bucket, prefix=prefix, recursive=True)
        return [str(entry.object_name) for entry in found]

    return _persistently(store, prefix, names)


def _persistently(store: Store, key: str, request: Callable[[], _T]) -> _T:
    """Make a request, a few times if it fails for a reason that may pass."""
    for pause in (*_PAUSES, None):
        try:
            return request()
        except (MinioException, urllib3.exceptions.HTTPError, _DamagedTransferError) as error:
            if pause is None or not _is_transient(error):
                _raise_explained(store, key, error)
            else:
                time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def full_disk(folder: Path, size: int, free: int) -> StoreError:
    """Return the error for a shard that the disk cannot take.

    Args:
        folder: Where it was to go.
        size: Bytes wanted.
        free: Bytes there are.
    """
    gib = 1 << 30
    return StoreError(
        message(
            f"the disk of {folder} is full",
            round(free / gib, 2),
            f"{size / gib:.2f} GiB for the next shard",
            f"free some space, or lower {CACHE_SETTING} to what the disk can spare",
        )
    )


def _read_range(store: Store, key: str, offset: int, size: int) -> bytes:
    try:
        response = store.client.get_object(store.config.bucket, key, offset=offset, length=size)
    except S3Error as error:
        if error.code == "InvalidRange":  # begins behind the end
            return b""
        raise
    try:
        return response.read(decode_content=False)
    finally:
        response.close()
        response.release_conn()


def _transfer(store: Store, key: str, target: Path, reserve: Callable[[int], None]) -> None:
    response = store.client.get_object(store.config.bucket, key)
    try:
        size = response.headers.get("Content-Length")
        if size is None:
            raise _DamagedTransferError("the answer has no Content-Length")
        reserve(int(size))
        _write(response, int(size), target)
    finally:
        response.close()
        response.release_conn()


def _write(response: BaseHTTPResponse, size: int, target: Path) -> None:
    digest = hashlib.md5(usedforsecurity=False)
    written = 0
    try:
        with target.open("r+b" if target.exists() else "wb") as stream:
            # raw bytes: a Content-Encoding kept with the object does not concern us
            for chunk in response.stream(_CHUNK, decode_content=False):
                stream.write(chunk)
                digest.update(chunk)
                written += len(chunk)
            stream.truncate()
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise full_disk(target.parent, size, 0) from error
        raise
    if written != size:
        raise _DamagedTransferError(f"{written} bytes arrived of {size}")
    expected = _plain_md5(response)
    if expected is not None and digest.hexdigest() != expected:
        raise _DamagedTransferError(f"the MD5 of what arrived is {digest.hexdigest()}, the store says {expected}")


def _plain_md5(response: BaseHTTPResponse) -> str | None:
    """Return the object's MD5 where its ETag is one: uploaded in one piece, and not encrypted under keys of others."""
    headers = response.headers
    if _CUSTOMER_KEY in headers or headers.get(_ENCRYPTION, "AES256") != "AES256":
        return None  # such ETags look like an MD5 and are none
    etag = headers.get("ETag", "").strip('"').lower()
    return etag if re.fullmatch(r"[0-9a-f]{32}", etag) else None


def _is_transient(error: Exception) -> bool:
    if isinstance(error, S3Error):
        return error.response.status in _TRANSIENT_STATUS
    return isinstance(error, urllib3.exceptions.HTTPError | ServerError | _DamagedTransferError)


def _raise_explained(store: Store, key: str, error: Exception) -> None:
    bucket, endpoint = store.config.bucket, store.config.endpoint
    code = error.code if isinstance(error, S3Error) else None
    if code == "NoSuchBucket":
        raise DataError(
            message(
                f"shard {SCHEME}{bucket}/{key}: the store at {endpoint} has no bucket {bucket!r}",
                fix="correct store.endpoint in params.yaml, or the URLs in index.parquet",
            )
        ) from error
    if code in ("NoSuchKey", "NotFound", "404"):
        raise DataError(
            message(
                f"shard {SCHEME}{bucket}/{key} is not in the store at {endpoint}",
                fix="upload it again, or make index.parquet anew",
            )
        ) from error
    if isinstance(error, _DamagedTransferError):
        raise StoreError(
            message(
                f"shard {SCHEME}{bucket}/{key} arrives damaged from {endpoint}, {len(_PAUSES) + 1} times: {error}",
                fix="check the network and the server",
            )
        ) from error
    with store.explained():
        raise error
