"""One entry of the section ``captioners``: a captioner whose image tokens pass through a codebook.

This module stays light: it is imported wherever params.yaml is read.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from assets.config import entry, read_sections
from assets.section import Section, parse
from training.config import BudgetConfig, OptimConfig
from training.data.views import ViewsConfig
from training.models.towers_config import TextTransformer, VisionTransformer

NO_RUN = "none"
"""What a captioner names whose image tower starts at random."""


class CodebookConfig(Section):
    """The codebook and how it learns."""

    size: int = Field(ge=2, le=1 << 16)
    """Number of codes, K; indices are stored in two bytes."""
    width: int = Field(ge=1)
    """Of a code, d. It divides the width of the image tokens, which are cut into so many parts that share the codes."""
    commitment: float = Field(default=0.25, gt=0)
    """Weight beta of one of the two squared distances between tokens and codes."""
    order: Literal["paper", "legacy"] = "paper"
    """Which one: that which moves the tokens, as in the paper, or that which moves the codes, as in the published
    code."""
    update: Literal["gradient", "average"] = "gradient"
    """Codes follow the gradient of the loss, or are moving averages of the tokens that chose them."""
    decay: float = Field(default=0.99, gt=0, lt=1)
    """Of these averages, per step."""
    revive_every: int = Field(default=100, ge=0)
    """Steps between two looks for codes that no token has chosen since the last one, beginning after the first step;
    such a code moves to a random token of the batch. 0 leaves them where they are."""
    revive_until: float = Field(default=0.5, ge=0, le=1)
    """Share of the budget after which codes are left in peace."""


class CaptionHoldout(Section):
    """Training pairs that are kept out of training, to measure the caption loss and the use of the codes."""

    pairs: int = Field(ge=2, le=16384)
    """How many; the same ones in every run, chosen by a hash of the key."""
    every: int = Field(ge=1)
    """Steps between two looks at them; another one follows the last step."""


class DescribeConfig(Section):
    """How the finished captioner describes the accepted pairs."""

    batch_size: int = Field(default=64, ge=1)
    """Images at a time; fixed, so that captions do not depend on the number of processes."""
    beams: int = Field(default=3, ge=1, le=64)
    """Beams of the search for a caption; 1 takes the likeliest token each time."""
    min_tokens: int = Field(default=0, ge=0)
    """Tokens before a caption may end."""
    max_tokens: int = Field(default=20, ge=1)
    """Tokens after which it is cut, the end token included."""


class CaptionerConfig(Section):
    """A captioner; the section ``captioners.NAME``."""

    dataset: str
    """The data set whose accepted training pairs it learns from and describes."""
    run: str
    """The run whose image tower this one's starts as, or none for fresh weights."""
    seed: int = Field(ge=0, lt=2**32)
    """Decides initial weights, order, views and the revival of codes."""
    image_size: int = Field(ge=8, le=4096)
    """Side of the square images."""
    vision: VisionTransformer
    """The image tower, whose patch tokens are the input of the codebook."""
    codebook: CodebookConfig
    decoder: TextTransformer
    """The text decoder, which attends to the codes in each layer; captions are cut at its context."""
    views: ViewsConfig
    budget: BudgetConfig
    optim: OptimConfig
    precision: Literal["fp32", "bf16"] = "fp32"
    holdout: CaptionHoldout
    shuffle_window: int = Field(default=0, ge=0)
    """Shards that are shuffled together; 0 shuffles the whole data set."""
    log_every: int = Field(ge=1)
    """Steps between two rows of the training curves."""
    checkpoint_every: int = Field(ge=1)
    """Steps between two checkpoints."""
    checkpoint_keep: int = Field(default=2, ge=1)
    """How many of the newest checkpoints stay until the captioner is trained."""
    describe: DescribeConfig = DescribeConfig()

    @model_validator(mode="after")
    def _fits(self) -> "CaptionerConfig":
        vision, decoder = self.vision, self.decoder
        if self.image_size % vision.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {vision.patch_size}")
        if vision.width % vision.head_width:
            raise ValueError(f"vision width {vision.width} is not a multiple of head_width {vision.head_width}")
        if vision.pool_type != "tok":
            raise ValueError("vision.pool_type has no meaning for a captioner, which reads all tokens; leave it out")
        if vision.width % self.codebook.width:
            raise ValueError(f"vision width {vision.width} is not a multiple of codebook.width {self.codebook.width}")
        if decoder.width % decoder.heads:
            raise ValueError(f"decoder width {decoder.width} is not a multiple of heads {decoder.heads}")
        if self.optim.ema_decay is not None:
            raise ValueError("optim.ema_decay is not offered for captioners; leave it out")
        return self._check_describe()

    def _check_describe(self) -> "CaptionerConfig":
        most, context = self.describe.max_tokens, self.decoder.context_length
        if most >= context:
            raise ValueError(
                f"describe.max_tokens {most} leaves no place for the start token in a context of {context}"
            )
        if self.describe.min_tokens >= most:
            raise ValueError(f"describe.min_tokens {self.describe.min_tokens} is not below max_tokens {most}")
        return self

    @property
    def code_length(self) -> int:
        """Codes of an image: patches times parts of a token."""
        return (self.image_size // self.vision.patch_size) ** 2 * (self.vision.width // self.codebook.width)


def load_captioner(params: Path, name: str) -> CaptionerConfig:
    """Read and check ``captioners.NAME`` and that its data set and run exist.

    Args:
        params: The params.yaml to read.
        name: The captioner.

    Raises:
        ConfigError: Unknown captioner, data set, run or key, wrong type or value.
    """
    sections = read_sections(params)
    config = parse(CaptionerConfig, entry(sections, "captioners", name, params), f"{params}: captioners.{name}")
    entry(sections, "datasets", config.dataset, params)
    if config.run != NO_RUN:
        entry(sections, "runs", config.run, params)
    return config
