"""Settings of the views of an image that training sees."""

from dataclasses import dataclass

from pydantic import Field, model_validator

from assets.section import Section


class ColourConfig(Section):
    """Random changes of a view's colours, drawn from the sample's seed; applied on the device, a batch at a time."""

    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    """Largest change of brightness, contrast, saturation and hue: factors are 1 +- these, the hue is turned by +- the
    last, in turns."""
    jitter_probability: float = Field(default=0.8, ge=0, le=1)
    """Of the four together."""
    grey_probability: float = Field(default=0.2, ge=0, le=1)
    """Of losing all colour."""
    blur_probability: float = Field(default=0.1, ge=0, le=1)
    """Of a Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's deviation in pixels of the view."""
    solarise_probability: float = Field(default=0.2, ge=0, le=1)
    """Of turning the brighter half of each channel into its negative."""

    @model_validator(mode="after")
    def _sensible(self) -> "ColourConfig":
        if min(self.jitter) < 0 or max(self.jitter[:3]) > 1 or self.jitter[3] > 0.5:
            raise ValueError(f"jitter must be in [0, 1] and its hue in [0, 0.5], got {self.jitter}")
        if not 0 < self.blur_sigma[0] <= self.blur_sigma[1]:
            raise ValueError(f"blur_sigma must be ordered and positive, got {self.blur_sigma}")
        return self


class ViewsConfig(Section):
    """The random view of an image that training sees; drawn from (seed, epoch, key)."""

    crop_area: tuple[float, float]
    """Range of the crop's share of the image area; (1, 1) keeps the whole image."""
    crop_aspect: tuple[float, float] = (0.75, 4 / 3)
    """Range of the crop's width over height, drawn log-uniformly."""
    flip: float = Field(default=0.0, ge=0, le=1)
    """Probability of a horizontal flip; captions that say left and right forbid it."""
    colour: ColourConfig | None = None
    """Changes of colour; null for none. Captions that name colours forbid most of them."""

    @model_validator(mode="after")
    def _ordered(self) -> "ViewsConfig":
        low, high = self.crop_area
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop_area must be ordered inside (0, 1], got {self.crop_area}")
        if not 0 < self.crop_aspect[0] <= self.crop_aspect[1]:
            raise ValueError(f"crop_aspect must be ordered and positive, got {self.crop_aspect}")
        return self


@dataclass(frozen=True, slots=True)
class ContainingView:
    """A view that holds other views of the same sample: the smallest box around them, randomly enlarged.

    Attributes:
        around: Names of the views, drawn before this one.
        shrink: Its side is this many times smaller than theirs.
    """

    around: tuple[str, ...]
    shrink: int = 1


@dataclass(frozen=True, slots=True)
class ResizedView:
    """The crop of another view, at another size, for a teacher whose pictures are of that size.

    Attributes:
        of: Name of that view, drawn before this one.
        side: Its own side in pixels.
    """

    of: str
    side: int


View = ViewsConfig | ContainingView | ResizedView
