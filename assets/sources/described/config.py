"""Settings that every source has whose data the user describes: what they are, and how they are split."""

from collections.abc import Mapping
from typing import Annotated, Generic, TypeVar

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from assets.section import Section
from assets.sources.base import Domain, Role

# a split's name becomes a folder and may stand before its keys, which have to fit a tar header
SplitName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,19}$")]


class DescribedSplit(Section):
    """What every split has, wherever its data lie."""

    role: Role
    """train and retrieval take pairs; zero_shot takes labelled pictures."""
    domain: Domain = "in_domain"
    """The evaluation suite it belongs to."""
    classes: str | None = None
    """zero_shot only: a text file with the name of class 0, 1, .. on lines of their own; a tab and the class's group
    may follow."""
    style: str | None = None
    """A word for what its pictures look like, for the data card."""


SplitT = TypeVar("SplitT", bound=DescribedSplit)


class DescribedConfig(Section, Generic[SplitT]):
    """What is known about data that exist already. A source adds its ``kind`` and the type of its splits."""

    title: str
    """One line for the data card: what the pictures and captions are."""
    licence: str = Field(min_length=1)
    """Licence of the pictures, one line; say so when it differs from picture to picture."""
    attribution: tuple[str, ...] = ()
    """Credits that must travel with the data, one line each."""
    languages: tuple[str, ...] = Field(default=("en",), min_length=1)
    """Language codes of the captions. The first is that of the caption proper; docs/data tells for each source where
    those of the others stand."""
    faults: tuple[str, ...] = ()
    """Known faults, one sentence each."""
    splits: dict[SplitName, SplitT] = Field(min_length=1)
    """Name -> where its data are; ``train`` is the one to learn from."""

    @model_validator(mode="after")
    def _splits_fit_together(self) -> "DescribedConfig[SplitT]":
        check_splits(self.splits)
        return self


def check_splits(splits: Mapping[str, DescribedSplit]) -> None:
    """Refuse splits that do not go together, inside a validator of pydantic.

    Args:
        splits: Name -> settings.

    Raises:
        PydanticCustomError: There is not exactly one train split, or two splits would share a suite, or the files of
            class names differ.
    """
    if [name for name, split in splits.items() if split.role == "train"] != ["train"]:
        raise PydanticCustomError("train", "splits needs one split of role train, and its name must be 'train'")
    suites = [(split.role, split.domain) for split in splits.values()]
    if len(set(suites)) < len(suites):
        raise PydanticCustomError("suites", "two splits of one role need different domains")
    if len({split.classes for split in splits.values() if split.classes}) > 1:
        raise PydanticCustomError("classes", "all zero_shot splits must name the same file of classes")
