"""What KEY.json says about a training picture, read by position: further captions, where the objects are."""

from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc
from numpy.typing import NDArray

from assets.index import read_index
from assets.metadata import parse_metadata
from training.data.pairs import Pairs
from training.data.shard_files import ShardFiles


@dataclass(frozen=True, slots=True)
class MetadataPlaces:
    """Where in its shard the member KEY.json of each pair lies; ``Pairs`` leaves it out, since few runs want it.

    Attributes:
        offset: First byte, int64 [n].
        size: Bytes, int64 [n]; 0 where the sample has no such member.
    """

    offset: NDArray[Any]
    size: NDArray[Any]


def metadata_places(pairs: Pairs, split: str = "train") -> MetadataPlaces:
    """Look up in the index where KEY.json lies; no shard is opened.

    Args:
        pairs: The pairs.
        split: Their split.
    """
    index = read_index(pairs.folder, ["key", "metadata_offset", "metadata_size"], split)
    places = pc.index_in(pairs.keys, index.column("key").combine_chunks())  # pyright: ignore[reportAttributeAccessIssue]
    rows = places.to_numpy(zero_copy_only=False)
    offset, size = (index.column(name).to_numpy()[rows] for name in ("metadata_offset", "metadata_size"))
    return MetadataPlaces(offset, size)


class MetadataReader:
    """Reads KEY.json by position; one reader per process."""

    def __init__(self, pairs: Pairs, places: MetadataPlaces) -> None:
        """Prepare; nothing is opened yet.

        Args:
            pairs: The pairs, with a cache if shards are URLs.
            places: Where their KEY.json lie.

        Raises:
            ConfigError: A shard is a URL, and there is no cache.
        """
        self._pairs, self._places = pairs, places
        at_least = pairs.shard_bytes.tolist() if pairs.stored else []
        self._files = ShardFiles(pairs.folder, pairs.shards, at_least, pairs.cache)

    def read(self, position: int) -> dict[str, Any]:
        """Read what KEY.json of one pair says.

        Args:
            position: Place in the pairs.

        Returns:
            The members of its top level; empty where there is no KEY.json, or where it holds something else.

        Raises:
            DataError: The shard is missing or too short.
            StoreError: The store of a shard that is a URL fails.
        """
        offset, size = int(self._places.offset[position]), int(self._places.size[position])
        return parse_metadata(self._files.read(int(self._pairs.shard[position]), offset, size))

    def name(self, position: int) -> str:
        """Say which sample in which shard a pair is, for messages."""
        return f"sample {self._pairs.keys[position]} in {self._files.name(int(self._pairs.shard[position]))}"
