"""The contract of a data source: where samples come from, and what may be said about them.

A source is made from its config alone. Worker processes get a pickled copy, with whatever it has found out by then (a
listing of files, say). It hands out samples by (split, index range), so a shard is one range and any process can make
any shard. A folder or a table of URLs lists its items once and yields the items of the range; items that cannot be had
are left out, so a range may yield fewer samples than its length, never others.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from assets.downloads import DownloadMachine
from assets.placement import InPlace
from assets.progress import Stage
from assets.sources import SOURCES

if TYPE_CHECKING:
    from assets.shard_cache import ShardCache

Role = Literal["train", "retrieval", "zero_shot"]
Domain = Literal["in_domain", "held_out_style", "held_out_pairs"]
Frequency = Literal["head", "mid", "tail"]


class SourceConfig(Protocol):
    """What every source's config has: the key of its class in ``SOURCES``."""

    @property
    def kind(self) -> str:
        """Name of the source, the discriminator of the union of configs."""
        ...


@dataclass(frozen=True, slots=True)
class Sample:
    """One image-text pair as it goes into a shard.

    Attributes:
        key: Unique over the data set and stable for life; no dot or slash in it.
        image: The encoded picture.
        extension: ``jpg``, ``png`` or ``webp``.
        caption: The text of KEY.txt.
        metadata: The content of KEY.json; holds ``captions`` and whatever truth the source has.
        concepts: Ids of what the picture really shows, each once; empty when the source does not know.
        place: Where it lies already, to be indexed there; None for one to be written into a shard of ours.
    """

    key: str
    image: bytes
    extension: str
    caption: str
    metadata: dict[str, Any]
    concepts: tuple[str, ...] = ()
    place: InPlace | None = None


@dataclass(frozen=True, slots=True)
class Split:
    """A part of a data set.

    Attributes:
        name: Folder of its shards.
        role: What it is for.
        domain: The evaluation suite it belongs to.
        size: Number of indices, an upper bound on its samples.
        style: Name of the pictures' style, or several joined by ``+``, when the source has styles.
        cuts: For samples that are indexed in place: ends of the index ranges that lie in one tar each.
    """

    name: str
    role: Role
    domain: Domain
    size: int
    style: str | None = None
    cuts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ClassInfo:
    """One class of the zero-shot splits.

    Attributes:
        class_id: Its number, counted from 0.
        name: English name for prompts.
        plural: Its plural.
        group: A coarse category.
        train_count: Number of train samples that show it.
        frequency: Which third of the classes, ranked by train_count, it falls into.
    """

    class_id: int
    name: str
    plural: str
    group: str
    train_count: int
    frequency: Frequency


@dataclass(frozen=True, slots=True)
class About:
    """What the data card says of a source.

    Attributes:
        title: One line: what the pictures and captions are.
        licence: Licence of the pictures the configured splits hold, one line.
        attribution: Credits that must travel with the data, one line each.
        languages: Keys of ``captions`` that are languages.
        faults: Known faults, one sentence each.
        inputs: Package or file name -> version of what the bytes depend on.
        concept_names: Concept id -> readable name, for the card's tables.
    """

    title: str
    licence: str
    attribution: tuple[str, ...]
    languages: tuple[str, ...]
    faults: tuple[str, ...]
    inputs: Mapping[str, str] = field(default_factory=dict)
    concept_names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Means:
    """What lies beside params.yaml for making a data set; of it, only accepted deliveries say which samples there are.

    Attributes:
        cache: Knows the object store of params.yaml; None where there is no params.yaml.
        download: How pictures are fetched.
        batches: The file of accepted deliveries, ``batches/D.json``, which may be missing; None where there are none.
    """

    cache: "ShardCache | None" = None
    download: DownloadMachine = field(default_factory=DownloadMachine)
    batches: Path | None = None


class Source(ABC):
    """Base of all sources. Sample ``i`` of a split depends on the config and ``i`` only, whoever asks for it."""

    kind: ClassVar[str]

    def prepare(self, folder: Path, means: Means, stage: Stage) -> None:
        """Fetch what the samples are made of; called once, before anything else is asked for.

        Args:
            folder: Keeps what was fetched, over edits of code and settings; made when something is put there.
            means: What this machine has for it.
            stage: Shows the progress.

        Raises:
            DataError: It cannot be had.
        """
        del folder, means, stage

    @abstractmethod
    def about(self) -> About:
        """Return licence, credits, languages, faults and the versions the bytes depend on."""

    @abstractmethod
    def splits(self) -> list[Split]:
        """Return the splits, ``train`` first; those of size 0 are left out."""

    @abstractmethod
    def samples(self, split: str, start: int, stop: int) -> Iterator[Sample]:
        """Yield the samples of one split with start <= index < stop, in index order."""

    def write_beside(self, folder: Path) -> None:
        """Write what else belongs into the data folder, such as a list of what could not be had; nothing by default.

        Args:
            folder: The data folder in the making.
        """
        del folder

    def classes(self, train_counts: Mapping[str, int]) -> list[ClassInfo]:
        """Return the zero-shot classes in the order of ``class_id``; none unless the source has labels.

        Args:
            train_counts: Concept id -> number of train samples whose ``concepts`` name it.
        """
        del train_counts
        return []


def frequency_thirds(counts: Sequence[int]) -> list[Frequency]:
    """Say of every class into which third of the classes it falls, the most frequent first.

    Args:
        counts: Number of train samples per class; equal counts rank in the order given.
    """
    thirds: tuple[Frequency, ...] = ("head", "mid", "tail")
    order = sorted(range(len(counts)), key=lambda i: (-counts[i], i))
    places = {i: place for place, i in enumerate(order)}
    return [thirds[3 * places[i] // len(counts)] for i in range(len(counts))]


def open_source(config: SourceConfig) -> Source:
    """Make the source that ``config.kind`` names.

    Args:
        config: The source's own config; parsing has already refused unknown kinds.
    """
    module, _, name = SOURCES[config.kind].partition(":")
    source: Source = getattr(importlib.import_module(module), name)(config)
    return source
