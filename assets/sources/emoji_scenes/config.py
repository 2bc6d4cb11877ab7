"""Settings of the emoji-scenes source."""

from typing import Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from assets.section import Section

Style = Literal["twemoji", "openmoji"]
Group = Literal["animals", "food", "travel", "activities", "objects", "people", "smileys"]


class SplitSizes(Section):
    """Number of samples per split; 0 leaves a split out (train needs at least one)."""

    train: int = Field(ge=1)
    """Pairs to learn from, with planted noise and near-duplicates."""
    test: int = Field(ge=0)
    """Clean pairs for retrieval in the style of train."""
    test_style: int = Field(ge=0)
    """Clean pairs for retrieval in the held-out style."""
    test_pairs: int = Field(ge=0)
    """Clean pairs whose two concepts never stand together in train."""
    zero_shot_per_class: int = Field(ge=0)
    """Single-object pictures per class in the style of train."""
    zero_shot_style_per_class: int = Field(ge=0)
    """Single-object pictures per class in the held-out style."""


class EmojiScenesConfig(Section):
    """What the scenes hold and how many there are."""

    kind: Literal["emoji_scenes"]
    """Chooses this source."""
    seed: int = Field(ge=0)
    """Sample i of a split depends on this and i only."""
    image_size: int = Field(ge=32, le=512)
    """Width and height in pixels."""
    sizes: SplitSizes
    """Number of samples per split."""
    num_concepts: int = Field(ge=4)
    """How many concepts scenes draw from, the first of a fixed permutation; capped by what there is."""
    num_classes: int = Field(ge=2)
    """How many of them are zero-shot classes, evenly spread over the frequency ranks; smileys never are."""
    groups: tuple[Group, ...] = ("animals", "food", "travel", "activities", "objects", "people", "smileys")
    """Categories the concepts come from."""
    train_styles: tuple[Style, ...] = ("twemoji",)
    """Art styles of all splits but the held-out ones; twemoji alone keeps the pictures CC-BY."""
    held_out_style: Style = "openmoji"
    """Art style of the splits test_style and zero_shot_style."""
    zipf_exponent: float = Field(default=1.0, ge=0, le=3)
    """Concept of rank r is drawn with a probability proportional to r to the power of minus this."""
    max_objects: int = Field(default=4, ge=1, le=4)
    """Largest number of sprites in a scene."""
    repeat_share: float = Field(default=0.3, ge=0, le=1)
    """Probability that the second object repeats the first, so that counts exist."""
    held_out_pair_share: float = Field(default=0.1, gt=0, le=0.5)
    """Share of all concept pairs that train never shows together."""
    noise_share: float = Field(default=0.15, ge=0, le=1)
    """Share of train samples whose captions are wrong or empty talk."""
    duplicate_share: float = Field(default=0.05, ge=0, lt=1)
    """Share of train samples that show the scene of an earlier one again."""
    jpeg_quality: int = Field(default=92, ge=1, le=100)
    """Quality of the JPEG files, which keep full colour resolution."""

    @model_validator(mode="after")
    def _held_out_is_held_out(self) -> "EmojiScenesConfig":
        if not self.train_styles or not self.groups:
            raise PydanticCustomError("empty", "train_styles and groups need at least one entry each")
        if self.held_out_style in self.train_styles and (self.sizes.test_style or self.sizes.zero_shot_style_per_class):
            raise PydanticCustomError(
                "style",
                "held_out_style is among train_styles; take it out there, or set sizes.test_style and "
                "sizes.zero_shot_style_per_class to 0",
            )
        return self
