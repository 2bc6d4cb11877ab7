"""Settings of the random view of an image that training sees."""

from pydantic import Field, model_validator

from assets.section import Section


class ViewsConfig(Section):
    """The random view of an image that training sees; drawn from (seed, epoch, key)."""

    crop_area: tuple[float, float]
    """Range of the crop's share of the image area; (1, 1) keeps the whole image."""
    crop_aspect: tuple[float, float] = (0.75, 4 / 3)
    """Range of the crop's width over height, drawn log-uniformly."""
    flip: float = Field(default=0.0, ge=0, le=1)
    """Probability of a horizontal flip; captions that say left and right forbid it."""

    @model_validator(mode="after")
    def _ordered(self) -> "ViewsConfig":
        low, high = self.crop_area
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop_area must be ordered inside (0, 1], got {self.crop_area}")
        if not 0 < self.crop_aspect[0] <= self.crop_aspect[1]:
            raise ValueError(f"crop_aspect must be ordered and positive, got {self.crop_aspect}")
        return self
