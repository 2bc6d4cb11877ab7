"""One entry of the section ``concepts``: which concepts of a data set are counted, and where they are looked for.

This module stays light: it is imported wherever params.yaml is read.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from assets.config import entry, read_sections
from assets.errors import ConfigError, message
from assets.section import Section, parse

CONCEPTS = Path("data/concepts")
NONE = "none"
"""What an entry names that wants no embeddings."""
CLASSES = "classes"
"""What an entry names as its list whose concepts are the classes of its data set."""


class TruthImages(Section):
    """Pictures show what KEY.json lists under ``objects``, as generated and annotated data sets do."""

    kind: Literal["truth"]


class ClipImages(Section):
    """Pictures show what their embeddings resemble; see ``clip_tags.py`` for how, and what that cannot do."""

    kind: Literal["clip"]
    precision: float = Field(default=0.9, gt=0, lt=1)
    """Share of the pictures tagged with a concept that should show it, as estimated from captions. More gives fewer
    tags, less gives tags for what is not there, which hides wrong captions."""


class NoImages(Section):
    """Only captions are looked at."""

    kind: Literal["none"]


Images = TruthImages | ClipImages | NoImages


class ConceptsConfig(Section):
    """Which concepts are counted; the section ``concepts.NAME``."""

    dataset: str
    """The data set whose accepted training pairs are counted."""
    list: str
    """``classes``: the names of the data set's classes. Or a UTF-8 text file, one concept a line: name, then after a
    tab aliases joined by ``|``, then after a tab the group."""
    policy: Literal["phrase", "reference"] = "phrase"
    """How captions are searched: for the name as a phrase, or as the published scripts do."""
    embeddings: str
    """Entry of ``embeddings`` with the vectors of the pictures, for images of kind clip; or none."""
    images: Annotated[Images, Field(discriminator="kind")]
    """How it is found out what pictures show."""

    @field_validator("list")
    @classmethod
    def _names_something(cls, listed: str) -> str:
        if not listed.strip():
            raise ValueError(f"write {CLASSES}, or the path of a file with one concept a line")
        return listed

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> "ConceptsConfig":
        wants = isinstance(self.images, ClipImages)
        if wants and self.embeddings == NONE:
            raise ValueError("images of kind clip look at vectors of pictures; name the embeddings that hold them")
        if not wants and self.embeddings != NONE:
            raise ValueError(f"embeddings are for images of kind clip alone; write embeddings: {NONE}")
        return self

    @property
    def list_file(self) -> Path | None:
        """The file with the concepts; None where they are the data set's classes."""
        return None if self.list == CLASSES else Path(self.list)


def load_concepts(params: Path, name: str) -> ConceptsConfig:
    """Read ``concepts.<name>`` and check that what it names exists and is of the same data set.

    Args:
        params: The file params.yaml.
        name: The entry.

    Raises:
        ConfigError: An unknown name, a wrong value, embeddings of another data set, or a list that is no file.
    """
    sections = read_sections(params)
    where = f"{params}: concepts.{name}"
    config = parse(ConceptsConfig, entry(sections, "concepts", name, params), where)
    entry(sections, "datasets", config.dataset, params)
    if config.embeddings != NONE:
        dataset = entry(sections, "embeddings", config.embeddings, params)["dataset"]
        if dataset != config.dataset:
            what = f"{where}: embeddings.{config.embeddings} is of another data set"
            raise ConfigError(message(what, dataset, config.dataset, "name embeddings of the same data set"))
    if config.list_file is not None and not config.list_file.is_file():
        fix = f"write {CLASSES}, or the path of a file as seen from where the stage is started"
        raise ConfigError(message(f"{where}: list {config.list} does not exist", fix=fix))
    return config
