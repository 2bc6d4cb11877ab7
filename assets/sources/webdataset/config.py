"""Settings of the webdataset source."""

from typing import Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from assets.deliveries.names import prefix_fault
from assets.sources.described.config import DescribedConfig, DescribedSplit


class WebDatasetSplit(DescribedSplit):
    """One split and the tars that hold it. Pairs are KEY.jpg and KEY.txt; labelled pictures KEY.jpg and KEY.cls."""

    shards: str | None = Field(default=None, min_length=1)
    """Plain tar files: a path with brace ranges (``data/external/cc3m/{00000..00331}.tar``) or a glob (``*.tar``), or
    the same of objects in the store (``s3://BUCKET/cc3m/*.tar``). May be left out where there are ``deliveries``."""
    deliveries: str | None = None
    """Prefix in the store's bucket under which batches of further tars arrive (``incoming/mine/``). Those that were
    accepted into ``batches/D.json`` follow ``shards``, in the order of acceptance."""

    @model_validator(mode="after")
    def _tars_come_from_somewhere(self) -> "WebDatasetSplit":
        if self.shards is None and self.deliveries is None:
            raise PydanticCustomError(
                "tars", "shards names the tars of a split, deliveries where they arrive; one of them is needed"
            )
        if self.deliveries is not None and (fault := prefix_fault(self.deliveries)) is not None:
            raise PydanticCustomError(
                "deliveries", "deliveries: {fault}, got {prefix}", {"fault": fault, "prefix": repr(self.deliveries)}
            )
        return self

    @model_validator(mode="after")
    def _classes_belong_to_zero_shot(self) -> "WebDatasetSplit":
        if (self.role == "zero_shot") != (self.classes is not None):
            raise PydanticCustomError(
                "classes", "classes names the file of class names of a zero_shot split, which needs it; no other has it"
            )
        return self


class WebDatasetConfig(DescribedConfig[WebDatasetSplit]):
    """Tars that exist already. The first language is that of KEY.txt, others are keys of ``captions`` in KEY.json."""

    kind: Literal["webdataset"]
    """Chooses this source."""
    in_place: bool = True
    """Whether the tars stay where they are and are only indexed; false copies the samples into shards of ours, which
    DVC then versions."""
    title: str = "Image-text pairs from WebDataset shards"
    """One line for the data card: what the pictures and captions are."""
