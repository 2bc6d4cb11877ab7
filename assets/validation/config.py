"""Limits of the validation stage: ``datasets.NAME.validation`` in params.yaml."""

from typing import Literal, Self

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


class LanguageRule(Section):
    """Which captions are rejected for their language; short ones are easily misjudged (docs/validation.md)."""

    min_probability: float = Field(gt=0, le=1)
    """Reject a caption that is in none of the declared languages with at least this probability."""


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
    boilerplate: bool = False
    """Whether captions that a camera, a web page or a template wrote are accepted."""
    language: LanguageRule | None = None
    """Reject captions in a language that dataset.json does not declare; null judges no single caption."""
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


class SafetyRule(Section):
    """Which pictures are rejected as unsafe (needs the extra ``safety``)."""

    max_score: float = Field(ge=0, le=1)
    """Probability of pornography, at most; its makers call scores below 0.2 safe and those above 0.8 unsafe."""


class LanguageCheck(Section):
    """In which languages the captions of a split should be."""

    sample: int = Field(default=20_000, ge=1, le=1_000_000)
    """Accepted captions per split that are looked at, chosen by a hash of their key; the profile counts their words."""
    min_share: float = Field(default=0.8, ge=0, le=1)
    """Share of them in one of the languages of dataset.json, at least."""
    severity: Literal["error", "warning"] = "warning"
    """What a smaller share is; an error fails the stage."""


class DriftLimit(Section):
    """How far a split may be from the baseline's."""

    psi: float = Field(ge=0)
    """Population stability index of any distribution, beyond what two samples of their sizes differ by chance."""
    rejected_share: float = Field(ge=0, le=1)
    """Difference of the shares of rejected samples, for any reason and in all, beyond chance."""
    lost_share: float = Field(ge=0, le=1)
    """Share of the baseline's number of accepted samples that is no longer there."""


class DriftLimits(Section):
    """How far the data may be from the baseline, when there is one."""

    warn: DriftLimit = DriftLimit(psi=0.1, rejected_share=0.02, lost_share=0.05)
    """Warning beyond these."""
    error: DriftLimit = DriftLimit(psi=0.25, rejected_share=0.1, lost_share=0.5)
    """Error beyond these."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in DriftLimit.model_fields:
            low, high = getattr(self.warn, name), getattr(self.error, name)
            if low > high:
                raise ValueError(f"warn.{name} {low} is above error.{name} {high}")
        return self


class Limits(Section):
    """Shares of rejected samples that the data set may have; a breached error limit fails the stage."""

    max_rejected_train: float = Field(ge=0, le=1)
    """Error above this share of rejected training samples."""
    warn_rejected_train: float = Field(ge=0, le=1)
    """Warning above this share of rejected training samples."""
    max_rejected_evaluation: float = Field(ge=0, le=1)
    """Error above this share of rejected samples in any evaluation split."""
    warn_left_out: float = Field(default=0.01, ge=0, le=1)
    """Warning above this share of a split's listed samples that ingest could not read."""


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
    language: LanguageCheck = LanguageCheck()
    """Rules about the languages of captions."""
    drift: DriftLimits = DriftLimits()
    """Rules about what may change between two versions of the data."""
    safety: SafetyRule | None = None
    """Rules about pictures that nobody should train on; null scores none."""
