"""Settings of NMTune's head, its regularisers and the evaluator; light, because params.yaml is read with it."""

from itertools import pairwise
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from assets.section import Section
from evaluation.probing import ProbeConfig


class Regularisers(Section):
    """What is added to the cross-entropy, by weight and form; all weights 0 is a plain MLP head."""

    consistency: float = Field(ge=0)
    """Weight of the pull towards the frozen features."""
    covariance: float = Field(ge=0)
    """Weight of the penalty on correlated dimensions."""
    dominant: float = Field(ge=0)
    """Weight of the reward for large dominant singular values."""
    top: int = Field(ge=1)
    """Singular values that count as dominant; their mean share is rewarded."""
    pairing: Literal["cross", "same"]
    """``cross`` pulls the second view of an image towards the frozen feature of its first; ``same`` pulls both views
    towards their own."""
    per_dimension: bool
    """Whether the consistency is divided by the number of dimensions."""

    def scaled(self, factor: float) -> "Regularisers":
        """Return the same with all three weights times a factor."""
        weights = ("consistency", "covariance", "dominant")
        return self.model_copy(update={name: factor * getattr(self, name) for name in weights})


PRESETS = {
    # the released code: its README and its defaults agree
    "code": Regularisers(consistency=1.0, covariance=0.04, dominant=0.001, top=5, pairing="cross", per_dimension=True),
    # the formula of the paper: one weight for all, and the first singular value alone
    "paper": Regularisers(consistency=0.01, covariance=0.01, dominant=0.01, top=1, pairing="same", per_dimension=False),
}


class HeadConfig(Section):
    """The shape of the head."""

    hidden_layers: int = Field(default=1, ge=0, le=8)
    """Hidden layers of the residual MLP; 0 leaves a linear head."""
    ratio: int = Field(default=4, ge=1, le=64)
    """Width of a hidden layer over that of the features."""
    residual_scale: float = 1.0
    """What the MLP's output is multiplied by at first; learned, one number per dimension."""
    bias_before_norm: bool = False
    """Whether layers before a batch norm have a bias. Its gradient is zero but for rounding, so it is only noise."""
    unit_rms: bool = True
    """Whether features are first divided by their root mean square over the training images: two of the regularisers
    depend on the scale of the features, which differs between encoders. The published code does not."""


class FitConfig(Section):
    """How a head is trained."""

    epochs: int = Field(default=10, ge=1, le=10_000)
    """Passes over the images, each with two of the views of every image."""
    batch_size: int = Field(default=64, ge=2, le=1_000_000)
    """Images per step; a step has two views of each."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Of AdamW, on every parameter, as published."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps of linear warm-up before the cosine."""


class TuningConfig(ProbeConfig):
    """Settings of the evaluator ``tuning``."""

    features: Literal["pooled", "projected"] = "projected"
    folds: int = Field(default=3, ge=2, le=100)
    preset: Literal["code", "paper"] = "code"
    """Form and weights of the regularisers."""
    head: HeadConfig = HeadConfig()
    fit: FitConfig = FitConfig()
    views: int = Field(default=4, ge=2, le=64)
    """Random crops of every training image that are encoded once and kept."""
    crop_area: tuple[float, float] = (0.8, 1.0)
    """Range of a crop's share of the image."""
    flip: float = Field(default=0.0, ge=0, le=1)
    """Probability of mirroring a view; 0 where classes differ by left and right."""
    seeds: tuple[int, ...] = Field(default=(0, 1), min_length=1)
    """Of initial weights and of batches; scores are means over them. Views do not depend on them."""
    linear_lrs: tuple[float, ...] = Field(default=(0.03,), min_length=1)
    """Learning rates of the linear probe, ascending; with several, the validation part chooses. Cost grows with them,
    here and in the next two; a linear head wants a larger rate than the others. Published are 0.01 here and 0.001
    there, for thousands of steps."""
    mlp_lrs: tuple[float, ...] = Field(default=(0.01,), min_length=1)
    """The same for the MLP without regularisers."""
    nmtune_lrs: tuple[float, ...] = Field(default=(0.01,), min_length=1)
    """The same for NMTune."""
    strengths: tuple[float, ...] = Field(default=(1.0,), min_length=1)
    """Factors on NMTune's three weights, ascending; with several, the validation part chooses."""
    validation_share: float = Field(default=0.2, gt=0, lt=1)
    """Share of each class's training images that chooses, where there is a choice; at least one, and never all."""

    @field_validator("linear_lrs", "mlp_lrs", "nmtune_lrs", "strengths")
    @classmethod
    def _ascend(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if values[0] <= 0 or any(left >= right for left, right in pairwise(values)):
            raise ValueError(f"must be above 0 and ascend, got {', '.join(map(str, values))}")
        return values

    @field_validator("crop_area")
    @classmethod
    def _share(cls, values: tuple[float, float]) -> tuple[float, float]:
        if not 0 < values[0] <= values[1] <= 1:
            raise ValueError(f"must be ordered inside (0, 1], got {values}")
        return values

    @model_validator(mode="after")
    def _has_mlp(self) -> Self:
        if self.head.hidden_layers < 1:
            raise ValueError("head.hidden_layers must be at least 1: the linear probe is run beside the MLP anyway")
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds must differ and not be negative, got {', '.join(map(str, self.seeds))}")
        return self
