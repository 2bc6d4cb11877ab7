"""Limits of the validation stage: ``datasets.NAME.validation`` in params.yaml."""

from typing import Self

from pydantic import Field, model_validator

from assets.section import Section


class ImageRules(Section):
    """What an image must be like."""

    min_side: int = Field(ge=1)
    """Shorter side in pixels, at least."""
    max_side: int = Field(ge=1)
    """Longer side in pixels, at most."""
    max_aspect_ratio: float = Field(ge=1)
    """Longer side over shorter side, at most."""
    min_contrast: float = Field(ge=0, le=128)
    """Largest standard deviation of a colour channel (0 to 128) below which an image is blank; 0 accepts all."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_side > self.max_side:
            raise ValueError(f"min_side {self.min_side} is above max_side {self.max_side}")
        return self


class CaptionRules(Section):
    """What a caption must be like."""

    min_words: int = Field(ge=1)
    """Words, at least."""
    max_words: int = Field(ge=1)
    """Words, at most."""
    file_names: bool
    """Whether captions that are file names or addresses are accepted."""
    generic: tuple[str, ...]
    """Captions that say nothing about their image; compared without case, punctuation and outer spaces."""
    max_repeats: int = Field(ge=0)
    """Training images that may share one caption; all of them are rejected above it; 0 sets no limit."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_words > self.max_words:
            raise ValueError(f"min_words {self.min_words} is above max_words {self.max_words}")
        return self


class DuplicateRules(Section):
    """Which repeated images are dropped from training; the first in index order stays. Evaluation is never thinned."""

    exact: bool
    """Drop training images whose files are equal to the byte."""
    near: bool
    """Drop training images that show nearly the same as an earlier one."""
    evaluation: bool
    """Drop training images that also stand in an evaluation split (same bytes or nearly the same picture)."""
    max_distance: float = Field(ge=0, le=0.5)
    """Share of a picture's variance that another leaves unexplained, up to which they show nearly the same."""


class Limits(Section):
    """Shares of rejected samples that the data set may have; a breached error limit fails the stage."""

    max_rejected_train: float = Field(ge=0, le=1)
    """Error above this share of rejected training samples."""
    warn_rejected_train: float = Field(ge=0, le=1)
    """Warning above this share of rejected training samples."""
    max_rejected_evaluation: float = Field(ge=0, le=1)
    """Error above this share of rejected samples in any evaluation split."""


class ValidationConfig(Section):
    """What a sample and a data set must be like to pass validation."""

    image: ImageRules
    """Rules about pixels."""
    caption: CaptionRules
    """Rules about words."""
    duplicates: DuplicateRules
    """Rules about repeated images."""
    limits: Limits
    """Rules about the data set as a whole."""
