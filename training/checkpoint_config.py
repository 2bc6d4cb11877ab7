"""Which model embeds a data set: that of a run, or a checkpoint that none of the runs made.

This module stays light: it is imported wherever params.yaml is read.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from assets.section import Section

NO_RUN = "none"
"""What an entry names whose model is a checkpoint; ``models/none`` is a folder of the repository."""


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


class ModelChoice(Section):
    """A model and how it is run, for entries that embed a data set."""

    run: str
    """The run whose exported model embeds, or none where a checkpoint does."""
    checkpoint: Annotated[FolderCheckpoint | OpenClipCheckpoint, Field(discriminator="kind")] | None = None
    """A model that none of the runs made; it must not have seen test data."""
    batch_size: int = Field(default=256, ge=1, le=65_536)
    """Pictures or captions per forward pass."""

    @model_validator(mode="after")
    def _one_of_two(self) -> "ModelChoice":
        if (self.run == NO_RUN) == (self.checkpoint is None):
            raise ValueError("the model is that of a run or a checkpoint: name one of the two, not both or neither")
        return self
