"""One entry of the section ``embeddings``: a model that embeds and scores a data set's pairs, once for all who ask.

This module stays light: it is imported wherever params.yaml is read.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from assets.config import entry, read_sections
from assets.section import Section, parse

EMBEDDINGS = Path("data/embeddings")
NO_RUN = "none"
"""What an entry names that embeds with a checkpoint; ``models/none`` is a folder of the repository."""


class FolderCheckpoint(Section):
    """A folder in the layout of ``models/R``: an export of open_clip, or one with frozen text."""

    kind: Literal["folder"]
    path: Path


class OpenClipCheckpoint(Section):
    """Pretrained weights by their name in open_clip; they must be in the local cache, nothing is downloaded."""

    kind: Literal["open_clip"]
    model: str
    """Architecture, e.g. ``ViT-B-32``."""
    pretrained: str
    """Weights, e.g. ``laion2b_s34b_b79k``."""


class EmbeddingsConfig(Section):
    """Who embeds which pairs; the section ``embeddings.NAME``."""

    dataset: str
    """The data set whose accepted training pairs are embedded."""
    run: str
    """The run whose exported model embeds, or none where a checkpoint does."""
    checkpoint: Annotated[FolderCheckpoint | OpenClipCheckpoint, Field(discriminator="kind")] | None = None
    """A model that none of the runs made; it must not have seen test data."""
    batch_size: int = Field(default=256, ge=1, le=65_536)
    """Pictures or captions per forward pass."""

    @model_validator(mode="after")
    def _one_of_two(self) -> "EmbeddingsConfig":
        if (self.run == NO_RUN) == (self.checkpoint is None):
            raise ValueError("the model is that of a run or a checkpoint: name one of the two, not both or neither")
        return self


def load_embeddings(params: Path, name: str) -> EmbeddingsConfig:
    """Read ``embeddings.<name>`` and check that its data set and run exist.

    Args:
        params: The file params.yaml.
        name: The entry.

    Raises:
        ConfigError: An unknown name, or a wrong value.
    """
    sections = read_sections(params)
    config = parse(EmbeddingsConfig, entry(sections, "embeddings", name, params), f"{params}: embeddings.{name}")
    entry(sections, "datasets", config.dataset, params)
    if config.run != NO_RUN:
        entry(sections, "runs", config.run, params)
    return config
