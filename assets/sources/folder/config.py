"""Settings of the folder source."""

from typing import Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from assets.section import Section
from assets.sources.described.config import DescribedConfig, DescribedSplit


class CaptionsFile(Section):
    """A table with one row per picture."""

    file: str = Field(pattern=r"(?i)\.(csv|tsv|jsonl|ndjson|parquet)$")
    """The file; its suffix says what it is: .csv, .tsv, .jsonl, .ndjson or .parquet."""
    path: str = "path"
    """Name of the column with the picture's path, relative to the folder of the split."""
    caption: str = "caption"
    """Name of the column with the caption. Those of further languages are called ``<caption>_<language>``."""
    label: str = "label"
    """Name of the column with the class's name or number; read where ``labels`` is ``column``."""


class FolderSplit(DescribedSplit):
    """One split and the folder that holds it."""

    path: str = Field(min_length=1)
    """The folder."""
    captions: Literal["sidecar", "file"] | None = None
    """sidecar: ``dogs/rex.txt`` is the caption of ``dogs/rex.jpg``. file: ``captions_file`` has them. zero_shot alone
    can do without; the class's name is the caption then."""
    captions_file: CaptionsFile | None = None
    """Where the captions are, when ``captions`` is ``file``."""
    recursive: bool = True
    """Whether the folders in it count as well."""
    labels: Literal["folder", "folder_order", "column"] | None = None
    """zero_shot only. folder: the folder that a picture lies in is called after its class, by name or number.
    folder_order: the i-th of these folders, sorted by name, is class i. column: a column of ``captions_file``."""

    @model_validator(mode="after")
    def _settings_fit_together(self) -> "FolderSplit":
        labelled = self.role == "zero_shot"
        if labelled != (self.classes is not None) or labelled != (self.labels is not None):
            raise PydanticCustomError("classes", "a zero_shot split needs classes and labels; no other has them")
        if not labelled and self.captions is None:
            raise PydanticCustomError("captions", "captions must say where they are: sidecar or file")
        if (self.captions == "file") != (self.captions_file is not None):
            raise PydanticCustomError("captions_file", "captions: file needs captions_file; nothing else has it")
        if self.labels == "column" and self.captions_file is None:
            raise PydanticCustomError("labels", "labels: column needs captions: file and captions_file")
        return self


class FolderConfig(DescribedConfig[FolderSplit]):
    """Folders of pictures, and what is known about them.

    The first language is that of sidecars and of the caption column; others are read from the columns
    ``<caption>_<language>`` of a captions file.
    """

    kind: Literal["folder"]
    """Chooses this source."""
    title: str = "Image-text pairs from a folder"
    """One line for the data card: what the pictures and captions are."""
