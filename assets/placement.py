"""Where a sample lies in a shard: what the writer of shards and the reader of others' tars tell the index."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one sample lies in its shard, in bytes from the start of the file.

    Attributes:
        offset: First header of the sample.
        size: From there to the end of the last member's padding.
        image_offset: First byte of the picture.
        image_size: Length of the picture.
        metadata_offset: First byte of the JSON text.
        metadata_size: Length of the JSON text; 0 where there is none.
    """

    offset: int
    size: int
    image_offset: int
    image_size: int
    metadata_offset: int
    metadata_size: int


@dataclass(frozen=True, slots=True)
class InPlace:
    """Where a sample lies that ingest indexes and does not copy.

    Attributes:
        shard: Path of the tar, as the source knows it, or its URL ``s3://BUCKET/KEY``.
        place: Where in it.
    """

    shard: str
    place: Placement
