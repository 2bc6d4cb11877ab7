"""The url_table source: tables of addresses and captions, whose pictures img2dataset fetches.

The tables are read and checked first, all of them. Then each is downloaded, as far as that has not been done, into a
folder that no edit of code or captions makes worthless. Index i of a split is the i-th row of its table that has a
picture; the others are listed with the reason in ``failed_downloads.parquet`` of the data folder.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from assets.atomic import atomic_file, write_json
from assets.errors import DataError, message
from assets.manifest import value_digest
from assets.progress import Stage
from assets.sources.base import Means, Sample
from assets.sources.described.source import DescribedSource, SplitListing
from assets.sources.url_table.catalogue import FAILED, Catalogue, write_catalogue
from assets.sources.url_table.config import UrlTableConfig
from assets.sources.url_table.download import Download
from assets.sources.url_table.img2dataset import find_command
from assets.sources.url_table.parts import finished_parts
from assets.sources.url_table.rows import read_rows
from assets.sources.url_table.table import Table

FAILED_FILE = "failed_downloads.parquet"


@dataclass(frozen=True, slots=True)
class Listing(SplitListing):
    """A split whose download is finished.

    Attributes:
        catalogue: Its samples and failures.
        speechless: Languages that its table has no column of.
        rows: Number of rows of its table.
    """

    catalogue: Catalogue
    speechless: tuple[str, ...]
    rows: int


class UrlTable(DescribedSource[UrlTableConfig, Listing]):
    """Tables of addresses as a source; :meth:`prepare` must have been called.

    Args:
        config: Where the tables are and what is known about them.
    """

    kind: ClassVar[str] = "url_table"
    listed: ClassVar[str] = "table and downloads"
    left_out_fault: ClassVar[str] = "{count:,} rows of {split} have no picture: {why}."

    def __init__(self, config: UrlTableConfig) -> None:
        super().__init__(config)
        self._prepared: dict[str, Listing] = {}

    def prepare(self, folder: Path, means: Means, stage: Stage) -> None:
        """Read all tables, then download what is missing.

        Args:
            folder: Keeps the downloads: a folder per split and picture options.
            means: Among them processes and threads.
            stage: Shows the progress.

        Raises:
            ConfigError: img2dataset is not installed.
            DataError: A table is faulty, or too much of it cannot be downloaded.
        """
        config = self._config
        options = config.picture.model_dump(mode="json")
        names = sorted(config.splits, key=lambda name: name != "train")
        mappings = {name: config.splits[name].mapping for name in names}
        tables = {name: Table(Path(config.splits[name].table), mappings[name], config.languages) for name in names}
        places = {name: folder / f"{name}-{value_digest(options)}" for name in names}
        if not all(finished_parts(place) for place in places.values()):
            find_command(means.download.command)
        # every table to its end before the first address: a fault in the last one should not show only after a week
        read = {}
        for name, table in tables.items():
            stage.log.info("reading the table of %s", name)
            write_json(places[name] / "options.json", options)
            read[name] = read_rows(table, mappings[name], config.languages, places[name] / "rows.parquet")
        for name, rows in read.items():
            download = Download(name, rows, places[name], config.picture, config.download, means.download, stage)
            catalogue = write_catalogue(name, rows, download.finish(), places[name])
            self._prepared[name] = Listing(
                size=catalogue.size,
                left_out=catalogue.reasons,
                incomplete={},
                digest=catalogue.digest,
                catalogue=catalogue,
                speechless=rows.speechless,
                rows=len(rows.faults),
            )
            stage.log.info("%s: %d of %d rows have a picture", name, catalogue.size, len(rows.faults))

    def samples(self, split: str, start: int, stop: int) -> Iterator[Sample]:
        """Yield the samples of one split with start <= index < stop, in index order."""
        role, language = self._config.splits[split].role, self._config.languages[0]
        extension = self._config.picture.encode_format
        opened, stream = "", None
        try:
            for entry in self._listings[split].catalogue.read(start, stop):
                if entry["tar"] != opened:
                    if stream is not None:
                        stream.close()
                    opened, stream = entry["tar"], Path(entry["tar"]).open("rb")
                assert stream is not None
                stream.seek(entry["offset"])
                caption: str = entry["caption"]
                metadata: dict[str, Any] = json.loads(entry["metadata"])
                metadata["captions"] = {language: caption, **metadata.get("captions", {})}
                metadata |= {name: entry[name] for name in ("url", "original_width", "original_height", "sha256")}
                image = stream.read(entry["size"])
                yield Sample(entry["key"], image, extension, caption, metadata, self._mentioned(caption, role))
        except OSError as error:
            what = f"the download {opened} cannot be read ({error})"
            raise DataError(message(what, fix="run ingest again")) from error
        finally:
            if stream is not None:
                stream.close()

    def write_beside(self, folder: Path) -> None:
        """Write the rows that have no picture.

        Args:
            folder: The data folder in the making.
        """
        with (
            atomic_file(folder / FAILED_FILE) as temporary,
            pq.ParquetWriter(temporary, FAILED, compression="zstd") as writer,
        ):
            for listing in self._listings.values():
                with pq.ParquetFile(listing.catalogue.failed) as opened:
                    for batch in opened.iter_batches():
                        writer.write_table(pa.Table.from_batches([batch], FAILED))

    def _list_splits(self, names: list[str]) -> dict[str, Listing]:
        assert self._prepared, "prepare comes before everything else"
        return {name: self._prepared[name] for name in names}

    def _further_faults(self, split: str, listing: Listing) -> list[str]:
        faults = [f"The table of {split} has no column of language {code}." for code in listing.speechless]
        share = 100 * listing.size / listing.rows
        return [f"{listing.size:,} of {listing.rows:,} rows of {split} have a picture ({share:.1f} %).", *faults]
