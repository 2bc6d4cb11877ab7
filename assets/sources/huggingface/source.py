"""The huggingface source: rows of data sets that the library ``datasets`` opens.

A split is listed once, by its captions, labels, keys and the sizes of its pictures; the rows stay on disk, mapped into
memory. A pair without picture or caption is handed out with an empty one, so that validation rejects it by name; what
is left out is counted by reason. No pixel is decoded on the way.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import datasets
import numpy as np
import pyarrow as pa
from PIL import __version__ as pillow_version

from assets.errors import DataError, message
from assets.sources.base import About, Sample
from assets.sources.described.class_names import ClassNames
from assets.sources.described.extension import extension_of
from assets.sources.described.source import DescribedSource
from assets.sources.huggingface.config import HuggingFaceConfig
from assets.sources.huggingface.layout import Layout, captions_of, cells_of, layout_of
from assets.sources.huggingface.listing import Labels, Listing, Scan, row_key
from assets.sources.huggingface.loading import open_rows
from assets.sources.huggingface.pictures import NONE

_ROWS_AT_ONCE = 64
_ROWS_PER_SCAN = 4096


@dataclass(frozen=True, slots=True)
class _Table:
    """A split on disk.

    Attributes:
        rows: Its rows, only the columns that are read; a slice of it is an Arrow table.
        layout: What these are.
        versions: What names the state of the data besides their content.
    """

    rows: datasets.Dataset
    layout: Layout
    versions: Mapping[str, str]

    def read(self, start: int, stop: int) -> pa.Table:
        table: pa.Table = self.rows[start:stop]
        return table


class HuggingFace(DescribedSource[HuggingFaceConfig, Listing]):
    """Data sets of the library ``datasets`` as a source. Pickled copies map the same files again.

    Args:
        config: Where they are and what is known about them.
    """

    kind: ClassVar[str] = "huggingface"
    listed: ClassVar[str] = "rows"

    def about(self) -> About:
        """Return what the config says, the faults that the listing has shown, and the state of each data set."""
        about = super().about()
        inputs = dict(about.inputs)
        for name, table in self._tables.items():
            inputs |= {f"{what} of {name}": version for what, version in table.versions.items()}
        if any(table.layout.pictures.encodes for table in self._tables.values()):
            inputs["pillow"] = pillow_version
        return replace(about, inputs=inputs)

    def samples(self, split: str, start: int, stop: int) -> Iterator[Sample]:
        """Yield the samples of one split with start <= index < stop, in index order."""
        listing = self._listings[split]
        wanted = listing.rows(start, min(stop, listing.size))
        for begin in range(0, len(wanted), _ROWS_AT_ONCE):
            yield from self._samples(split, wanted[begin : begin + _ROWS_AT_ONCE])

    def _samples(self, split: str, wanted: np.ndarray) -> Iterator[Sample]:
        """Yield the samples of some rows, given by their numbers in rising order."""
        config, table, sizes = self._config.splits[split], self._tables[split], self._listings[split].sizes
        first, layout, labels = int(wanted[0]), table.layout, self._labels[split]
        rows = table.read(first, int(wanted[-1]) + 1)
        captions = captions_of(rows, layout, config.further_captions == "keep")
        keys, cells = cells_of(rows, layout.key), cells_of(rows, layout.label)
        images = rows[layout.image]
        for row in map(int, wanted):
            place = row - first
            spoken = captions[place]
            assert spoken is not None
            metadata: dict[str, Any] = {"row": row}
            if layout.key:
                metadata["id"] = keys[place]
            if labels is not None:
                class_id = labels.class_id(cells[place])
                assert class_id is not None
                metadata["class_id"] = class_id
                spoken.setdefault(self._config.languages[0], self._names[class_id])
            caption = spoken.setdefault(self._config.languages[0], "")
            metadata["captions"] = spoken
            image = b"" if sizes[row] == NONE else layout.pictures.read(images, place)
            if len(image) != max(sizes[row], 0) and not layout.pictures.encodes:
                raise DataError(
                    message(f"row {row} of split {split} has changed since it was listed", fix="run ingest again")
                )
            key = row_key(row, keys[place], None if config.role == "train" else split)
            concepts = self._mentioned(caption, config.role)
            yield Sample(key, image, extension_of(image), caption, metadata, concepts)

    @cached_property
    def _tables(self) -> dict[str, _Table]:
        """Open every split, ``train`` first."""
        tables: dict[str, _Table] = {}
        for name in sorted(self._config.splits, key=lambda name: name != "train"):
            split = self._config.splits[name]
            opened = open_rows(name, split)
            layout = layout_of(name, split, self._config.languages[0], opened.rows.features, opened.folder)
            rows = opened.rows.select_columns(layout.wanted).with_format("arrow")
            tables[name] = _Table(rows, layout, opened.versions)
        return tables

    def _list_splits(self, names: list[str]) -> dict[str, Listing]:
        # all data sets, columns and class names first: a wrong one should not show only after an hour of listing
        labels = self._labels
        return {name: self._list(name, labels[name]) for name in names}

    def _list(self, name: str, labels: Labels | None) -> Listing:
        table = self._tables[name]
        scan = Scan(name, self._config.splits[name], table.layout, labels, len(table.rows))
        for start in range(0, len(table.rows), _ROWS_PER_SCAN):
            scan.add(start, table.read(start, start + _ROWS_PER_SCAN), self._config.languages[0])
        return scan.listing()

    @property
    def _class_names(self) -> ClassNames | None:
        return self._class_names_of_file or self._class_names_of_features

    @cached_property
    def _class_names_of_features(self) -> ClassNames | None:
        """Return the names that the ClassLabel columns of all zero_shot splits agree on."""
        labelled = {name: table.layout.class_names for name, table in self._tables.items() if table.layout.label}
        if not labelled:
            return None
        (first, names), *others = labelled.items()
        if unnamed := [name for name, found in labelled.items() if found is None]:
            what = f"the labels of split {unnamed[0]} are no ClassLabel, so nothing says what the classes are called"
            raise DataError(message(what, fix="set splits.*.classes to a file of names"))
        assert names is not None
        for other, found in others:
            if found != names:
                what = f"the ClassLabels of the splits {first} and {other} differ"
                raise DataError(message(what, fix="set splits.*.classes to a file of names that holds for both"))
        if not names or not all(name.strip() for name in names):
            raise DataError(message(f"the ClassLabel of split {first} has classes without name", fix="name them"))
        return ClassNames([name.replace("_", " ").strip() for name in names])

    @cached_property
    def _labels(self) -> dict[str, Labels | None]:
        """What reads the labels of each split."""
        names = self._names
        labels: dict[str, Labels | None] = {}
        for split, table in self._tables.items():
            known = table.layout.class_names
            if known is not None and len(known) != len(names):
                what = f"the file of classes has another number of lines than the ClassLabel of split {split} classes"
                raise DataError(message(what, len(names), len(known), "correct splits.*.classes"))
            labels[split] = None if table.layout.label is None else Labels(names, split)
        return labels
