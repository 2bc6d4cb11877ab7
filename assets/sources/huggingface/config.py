"""Settings of the huggingface source."""

from typing import Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from assets.section import Section
from assets.sources.described.config import DescribedConfig, DescribedSplit


class Columns(Section):
    """Which columns of a data set hold what."""

    image: str = "image"
    """The picture: an Image feature, encoded bytes, a path, a struct of ``bytes`` and ``path``, or an array."""
    caption: str | None = None
    """The caption in the first of ``languages``: a string or a list of strings. zero_shot alone can do without; the
    class's name is the caption then."""
    captions: dict[str, str] = {}
    """Language code -> column, for the ``languages`` behind the first."""
    label: str | None = None
    """zero_shot only: the class, as a ClassLabel, a number or a name."""
    key: str | None = None
    """A column of strings or whole numbers that differ from row to row and stay with it; without it a sample's key is
    the number of its row."""


class HuggingFaceSplit(DescribedSplit):
    """One split and the data set that holds it."""

    data: str = Field(min_length=1)
    """A folder written by ``save_to_disk``, .parquet or .arrow files (a glob is fine), another folder that
    ``load_dataset`` takes, or a name on the hub (OWNER/NAME)."""
    name: str | None = None
    """Which of the configurations of a folder or a name on the hub, if it has several."""
    split: str | None = None
    """Which of its splits, or a part in the notation of ``datasets`` (``train[:10%]``); needed if it has several."""
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    """The commit, as 40 hex digits, of a name on the hub, which needs it; branches and tags move."""
    columns: Columns = Columns()
    """Which columns hold what."""
    further_captions: Literal["keep", "drop"] = "keep"
    """What becomes of all captions but the first, where a cell lists several: kept in KEY.json as ``en_2``, ``en_3``
    and so on, or left out."""
    image_folder: str | None = None
    """The folder that relative paths of pictures start from; that of ``data`` unless given."""

    @model_validator(mode="after")
    def _columns_fit_the_role(self) -> "HuggingFaceSplit":
        labelled = self.role == "zero_shot"
        if labelled != (self.columns.label is not None):
            raise PydanticCustomError("label", "a zero_shot split needs columns.label; no other has it")
        if self.classes is not None and not labelled:
            raise PydanticCustomError("classes", "only a zero_shot split has classes")
        if not labelled and self.columns.caption is None:
            raise PydanticCustomError("caption", "columns.caption must name the column of captions")
        return self


class HuggingFaceConfig(DescribedConfig[HuggingFaceSplit]):
    """Data sets of the library ``datasets``, and what is known about them."""

    kind: Literal["huggingface"]
    """Chooses this source."""
    title: str = "Image-text pairs from a Hugging Face data set"
    """One line for the data card: what the pictures and captions are."""

    @model_validator(mode="after")
    def _columns_speak_known_languages(self) -> "HuggingFaceConfig":
        for split in self.splits.values():
            if strange := sorted(set(split.columns.captions) - set(self.languages[1:])):
                text = "columns.captions has the language {code}, which languages does not list behind the first"
                raise PydanticCustomError("captions", text, {"code": repr(strange[0])})
        return self
