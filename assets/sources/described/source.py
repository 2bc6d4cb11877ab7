"""What every source does whose data the user describes: it lists its splits once, and tells what the listing shows."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from assets.sources.base import About, ClassInfo, Role, Source, Split
from assets.sources.described.class_names import ClassNames
from assets.sources.described.config import DescribedConfig


@dataclass(frozen=True, slots=True)
class SplitListing:
    """What is known of a split before its contents are read; a source adds how it finds the samples again.

    Attributes:
        size: Number of indices.
        left_out: Reason -> number of items that are not handed out.
        incomplete: Reason -> number of pairs handed out with an empty picture or caption.
        digest: Names all that the listing saw, so that other data have another.
    """

    size: int
    left_out: Mapping[str, int]
    incomplete: Mapping[str, int]
    digest: str


ConfigT = TypeVar("ConfigT", bound=DescribedConfig[Any])
ListingT = TypeVar("ListingT", bound=SplitListing)


class DescribedSource(Source, Generic[ConfigT, ListingT]):
    """Base of the sources that take their description from the config and their splits from a listing.

    Args:
        config: Where the data are and what is known about them.
    """

    listed: ClassVar[str]
    """What is listed, in the plural: the ``inputs`` are called ``<listed> of <split>``."""
    left_out_fault: ClassVar[str] = "{count:,} samples of {split} left out: {why}."
    """The sentence on the data card about what is not handed out."""

    def __init__(self, config: ConfigT) -> None:
        self._config = config
        files = [split.classes for split in config.splits.values() if split.classes]
        self._class_names_of_file = ClassNames.from_file(Path(files[0])) if files else None

    def about(self) -> About:
        """Return what the config says, and the faults that the listing has shown."""
        faults = list(self._config.faults)
        for name, listing in self._listings.items():
            faults += [
                self.left_out_fault.format(count=count, split=name, why=why) for why, count in listing.left_out.items()
            ]
            faults += [f"{count:,} samples of {name} incomplete: {why}." for why, count in listing.incomplete.items()]
            faults += self._further_faults(name, listing)
        if self._class_names:
            faults.append("A class's train_count is the number of train captions that mention its name or plural.")
        return About(
            title=self._config.title,
            licence=self._config.licence,
            attribution=self._config.attribution,
            languages=self._config.languages,
            faults=tuple(faults),
            inputs={f"{self.listed} of {name}": listing.digest for name, listing in self._listings.items()},
            concept_names={str(class_id): name for class_id, name in enumerate(self._names)},
        )

    def splits(self) -> list[Split]:
        """Return the splits, ``train`` first."""
        configs = self._config.splits
        return [
            Split(
                name,
                configs[name].role,
                configs[name].domain,
                listing.size,
                configs[name].style,
                self._cuts(listing),
            )
            for name, listing in self._listings.items()
        ]

    def classes(self, train_counts: Mapping[str, int]) -> list[ClassInfo]:
        """Return the classes that have names.

        Args:
            train_counts: Class id as text -> number of train captions that mention it.
        """
        return self._class_names.classes(train_counts) if self._class_names else []

    @abstractmethod
    def _list_splits(self, names: list[str]) -> dict[str, ListingT]:
        """List the splits, in the order given; look for all places before the first long listing."""

    def _further_faults(self, split: str, listing: ListingT) -> list[str]:
        """Return sentences for the data card about what else the listing of a split has shown."""
        del split, listing
        return []

    def _cuts(self, listing: ListingT) -> tuple[int, ...]:
        """Return where the tars end whose samples are indexed in place, as in :class:`~assets.sources.base.Split`."""
        del listing
        return ()

    @cached_property
    def _listings(self) -> dict[str, ListingT]:
        """Every split's listing, ``train`` first, so that what else there is does not change its keys."""
        return self._list_splits(sorted(self._config.splits, key=lambda name: name != "train"))

    @property
    def _class_names(self) -> ClassNames | None:
        """The classes, if there are any; a source whose data name them overrides this."""
        return self._class_names_of_file

    @property
    def _names(self) -> list[str]:
        return self._class_names.names if self._class_names else []

    def _mentioned(self, caption: str, role: Role) -> tuple[str, ...]:
        """Return the ids of the classes that a caption mentions; only those of ``train`` are counted."""
        return self._class_names.mentioned(caption) if self._class_names and role == "train" else ()
