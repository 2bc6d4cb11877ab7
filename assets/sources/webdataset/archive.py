"""Tar files that others wrote: which they are, and where each sample's members lie, found from the headers alone.

The standard library's reader spends four times longer on a header, and takes a damaged header in the middle of a file
for its end; a data set of millions of samples needs neither.
"""

import fnmatch
import os
import re
from collections.abc import Iterator
from glob import glob
from pathlib import Path

from assets.errors import DataError, message
from assets.members import open_shard, stored_urls
from assets.shard_cache import ShardCache
from assets.shard_download import is_url

BLOCK = 512
_ZEROS = bytes(BLOCK)
_BLANK_CHECKSUM = sum(b" " * 8)
_GLOB = re.compile(r"[*?\[]")
_PATTERN = re.compile(r"[{*?\[]")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_LONG_NAME, _PAX, _FILES = b"L", b"x", (b"0", b"\0", b"7")

Place = tuple[int, int]
"""Offset of the first byte and length of a member."""


def expand(pattern: str) -> list[str]:
    """Spell out the brace ranges of a pattern.

    Args:
        pattern: Text with any number of ``{FIRST..LAST}``, zeros in front kept.

    Returns:
        Every text it stands for, in order.
    """
    found = _RANGE.search(pattern)
    if found is None:
        return [pattern]
    first, last = found.groups()
    width = len(first) if first.startswith("0") else 1
    before, after = pattern[: found.start()], expand(pattern[found.end() :])
    numbers = range(int(first), int(last) + 1)
    return [f"{before}{number:0{width}d}{rest}" for number in numbers for rest in after]


def find_shards(pattern: str, split: str, cache: ShardCache | None = None) -> list[str]:
    """Return the tar files a pattern stands for.

    Args:
        pattern: A path or URL ``s3://BUCKET/KEY`` with brace ranges, or a glob, or both.
        split: Name of the split, for errors.
        cache: Knows the object store; needed for URLs.

    Returns:
        Paths or URLs: brace ranges in their order, matches of a glob sorted by name.

    Raises:
        DataError: Files are missing, or nothing matches.
        StoreError: The object store fails.
        ConfigError: The pattern is a URL, and there is no cache.
    """
    expanded = expand(pattern)
    if is_url(pattern):
        there = stored_urls(_PATTERN.split(pattern)[0], cache)
        names = [url for name in expanded for url in (fnmatch.filter(there, name) if _GLOB.search(name) else [name])]
        known = set(there)
    else:
        # Path.glob wants a root of its own, which a pattern given by the user may or may not have
        names = [
            path
            for name in expanded
            for path in (sorted(glob(name, recursive=True)) if _GLOB.search(name) else [name])  # noqa: PTH207
        ]
        known = {name for name in names if Path(name).is_file()}
    if not names:
        raise DataError(message(f"no shard of split {split} matches", pattern, fix="correct splits.*.shards"))
    paths = list(dict.fromkeys(names))
    if missing := [path for path in paths if path not in known]:
        raise DataError(
            message(
                f"{len(missing)} of {len(paths)} shards of split {split} are missing, the first is {missing[0]}",
                fix="finish the download, or name in splits.*.shards only what is there (a glob takes what it finds)",
            )
        )
    return paths


def list_samples(shard: str, cache: ShardCache | None = None) -> dict[str, dict[str, Place]]:
    """Group the members of a tar by sample, wherever in it they stand.

    Args:
        shard: Path or URL of a plain tar file.
        cache: Takes a copy of a stored one.

    Returns:
        Key, i.e. member name without its last suffix -> suffix in lower case -> place. Keys are in the order of their
        first members. Of two members with one name the first counts; hidden files do not.

    Raises:
        DataError: The file is no plain tar, is damaged or ends too early.
    """
    samples: dict[str, dict[str, Place]] = {}
    try:
        for name, offset, size in _members(shard, cache):
            key, dot, suffix = name.removeprefix("./").rpartition(".")
            base = key.rpartition("/")[2]
            if dot and base and not base.startswith("."):
                samples.setdefault(key, {}).setdefault(suffix.lower(), (offset, size))
    except OSError as error:
        raise DataError(message(f"{shard} cannot be read ({error})", fix="look at its permissions and disk")) from error
    return samples


def _members(shard: str, cache: ShardCache | None) -> Iterator[tuple[str, int, int]]:
    """Yield (name, offset, size) of every regular file in a tar."""
    with open_shard(shard, cache) as stream:
        descriptor, end = stream.fileno(), os.fstat(stream.fileno()).st_size
        position = 0
        special: dict[str, str] = {}
        while (header := os.pread(descriptor, BLOCK, position)) != _ZEROS:
            kind, size = _check(shard, header, position)
            size = int(special.get("size", size)) if kind in _FILES else size
            offset = position + BLOCK
            if offset + size > end:
                raise _damaged(shard, f"ends inside the member at byte {position}")
            if kind == _LONG_NAME:
                special["path"] = _text(os.pread(descriptor, size, offset))
            elif kind == _PAX:
                special |= _pax(shard, os.pread(descriptor, size, offset))
            else:
                if kind in _FILES:
                    yield special.get("path") or _name(header), offset, size
                special = {}
            position = offset + size + -size % BLOCK


def _check(shard: str, header: bytes, position: int) -> tuple[bytes, int]:
    """Return the kind of a member and its size, after checking the header's sum."""
    if len(header) < BLOCK:
        raise _damaged(
            shard, f"ends without an end mark at byte {position}" if position else "is shorter than a header"
        )
    field = header[124:136]
    try:
        wanted = int(header[148:156].strip(b" \0") or b"0", 8)
        # sizes of 8 GiB and more are binary, marked by the highest bit
        size = int.from_bytes(field[1:], "big") if field[0] & 0x80 else int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        raise _damaged(shard, f"has no tar header at byte {position}") from None
    if sum(header) - sum(header[148:156]) + _BLANK_CHECKSUM != wanted:
        raise _damaged(shard, f"has no tar header at byte {position}")
    return header[156:157], size


def _name(header: bytes) -> str:
    name = _text(header[:100])
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _pax(shard: str, body: bytes) -> dict[str, str]:
    """Return the name and size that a pax header gives the member behind it."""
    facts: dict[str, str] = {}
    while body.strip(b"\0"):
        digits = body.partition(b" ")[0]
        length = int(digits) if digits.isdigit() else 0
        if not len(digits) < length <= len(body):
            raise _damaged(shard, "has a malformed extended header")
        word, _, value = body[:length].partition(b" ")[2].rstrip(b"\n").partition(b"=")
        if word in (b"path", b"size"):
            facts[word.decode()] = value.decode("utf-8", "surrogateescape")
        body = body[length:]
    return facts


def _damaged(shard: str, fault: str) -> DataError:
    return DataError(
        message(f"{shard} {fault}", wanted="a whole, uncompressed tar", fix="unpack it, or download or make it again")
    )
