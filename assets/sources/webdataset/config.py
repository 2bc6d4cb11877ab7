"""Settings of the webdataset source."""

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from assets.section import Section
from assets.sources.base import Domain, Role
from assets.sources.splits import check_splits

# a split's name becomes a folder and may stand before its keys, which have to fit a tar header
SplitName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,19}$")]


class WebDatasetSplit(Section):
    """One split and the tars that hold it."""

    shards: str = Field(min_length=1)
    """Plain tar files: a path with brace ranges (``data/external/cc3m/{00000..00331}.tar``) or a glob (``*.tar``)."""
    role: Role
    """train and retrieval take pairs (KEY.jpg, KEY.txt); zero_shot takes labelled pictures (KEY.jpg, KEY.cls)."""
    domain: Domain = "in_domain"
    """The evaluation suite it belongs to."""
    classes: str | None = None
    """zero_shot only: a text file with the name of class 0, 1, .. on lines of their own; a tab and the class's group
    may follow."""
    style: str | None = None
    """A word for what its pictures look like, for the data card."""

    @model_validator(mode="after")
    def _classes_belong_to_zero_shot(self) -> "WebDatasetSplit":
        if (self.role == "zero_shot") != (self.classes is not None):
            raise PydanticCustomError(
                "classes", "classes names the file of class names of a zero_shot split, which needs it; no other has it"
            )
        return self


class WebDatasetConfig(Section):
    """Tars that exist already, and what is known about them."""

    kind: Literal["webdataset"]
    """Chooses this source."""
    title: str = "Image-text pairs from WebDataset shards"
    """One line for the data card: what the pictures and captions are."""
    licence: str = Field(min_length=1)
    """Licence of the pictures, one line; say so when it differs from picture to picture."""
    attribution: tuple[str, ...] = ()
    """Credits that must travel with the data, one line each."""
    languages: tuple[str, ...] = Field(default=("en",), min_length=1)
    """Language codes of the captions; the first is that of KEY.txt, others are keys of ``captions`` in KEY.json."""
    faults: tuple[str, ...] = ()
    """Known faults, one sentence each."""
    splits: dict[SplitName, WebDatasetSplit] = Field(min_length=1)
    """Name -> its tars; ``train`` is the one to learn from."""

    @model_validator(mode="after")
    def _splits_fit_together(self) -> "WebDatasetConfig":
        check_splits(self.splits)
        return self
