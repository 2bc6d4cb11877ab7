"""Deterministic WebDataset shards: a tar writer that knows every offset, and readers by offset and in order.

Members of one sample stand together as KEY.<image extension>, KEY.txt, KEY.json with mtime 0, uid 0 and mode 0644, so
the same samples give the same bytes and ``webdataset`` reads the files as they are.
"""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from assets.errors import DataError, message
from assets.placement import Placement
from assets.sources.base import Sample

_BLOCK = tarfile.BLOCKSIZE
_NAME_BYTES = 100
_ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")


def encode_metadata(metadata: dict[str, Any]) -> bytes:
    """Return the bytes of KEY.json: compact UTF-8 with sorted keys."""
    return _ENCODER.encode(metadata).encode()


class ShardWriter:
    """Writes samples to an open binary stream as a tar archive; call :meth:`close` to end it.

    Attributes:
        position: Bytes written so far.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.position = 0

    def write(self, sample: Sample) -> Placement:
        """Append one sample.

        Args:
            sample: Its key must fit a tar name and hold no dot or slash.

        Returns:
            Where it went.
        """
        if not sample.key or "." in sample.key or "/" in sample.key:
            raise DataError(message("sample key cannot name a tar member", sample.key, "a name without dot or slash"))
        begin = self.position
        image_offset = self._member(f"{sample.key}.{sample.extension}", sample.image)
        self._member(f"{sample.key}.txt", sample.caption.encode())
        metadata = encode_metadata(sample.metadata)
        metadata_offset = self._member(f"{sample.key}.json", metadata)
        return Placement(begin, self.position - begin, image_offset, len(sample.image), metadata_offset, len(metadata))

    def _member(self, name: str, content: bytes) -> int:
        offset = self.position + _BLOCK
        padding = -len(content) % _BLOCK
        self._stream.write(_header(name, len(content)) + content + bytes(padding))
        self.position = offset + len(content) + padding
        return offset

    def close(self) -> None:
        """Write the end mark of the archive; the stream stays open."""
        end = 2 * _BLOCK
        end += -(self.position + end) % tarfile.RECORDSIZE
        self._stream.write(bytes(end))
        self.position += end


def _header(name: str, size: int) -> bytes:
    """Return a ustar header; written by hand because tarfile's own is a third of the cost of a sample's archive."""
    encoded = name.encode()
    if len(encoded) > _NAME_BYTES:
        raise DataError(message("tar member name is too long", name, f"at most {_NAME_BYTES} bytes", "shorten the key"))
    fields = b"%s0000644\x000000000\x000000000\x00%011o\x0000000000000\x00        0" % (
        encoded.ljust(_NAME_BYTES, b"\0"),
        size,
    )
    header = (fields.ljust(257, b"\0") + b"ustar\x0000").ljust(_BLOCK, b"\0")
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def read_shard(shard: Path) -> Iterator[Sample]:
    """Yield the samples of a shard from front to back.

    Args:
        shard: A tar file written by :class:`ShardWriter` or laid out like it.

    Raises:
        DataError: It is not a readable tar, or a sample lacks its picture.
    """
    members: dict[str, bytes] = {}
    current = ""
    try:
        with tarfile.open(shard, "r:") as archive:
            for entry in archive:
                key, _, extension = entry.name.partition(".")
                if key != current and members:
                    yield _assemble(shard, current, members)
                    members = {}
                current = key
                content = archive.extractfile(entry)
                if content is not None:
                    members[extension.lower()] = content.read()
    except (tarfile.TarError, FileNotFoundError) as error:
        raise DataError(message(f"shard {shard} is not readable as tar ({error})", fix="make it again")) from error
    if members:
        yield _assemble(shard, current, members)


def _assemble(shard: Path, key: str, members: dict[str, bytes]) -> Sample:
    extension = next((name for name in IMAGE_EXTENSIONS if name in members), None)
    if extension is None:
        raise DataError(message(f"sample {key} in {shard} has no picture", sorted(members), IMAGE_EXTENSIONS))
    metadata: dict[str, Any] = json.loads(members["json"]) if "json" in members else {}
    return Sample(key, members[extension], extension, members.get("txt", b"").decode(), metadata)
