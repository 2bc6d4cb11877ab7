"""The contract between a method and the engine: encode this rank's batch, then compute losses on gathered features."""

from typing import Any, NamedTuple

import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor, nn

from assets.section import Section
from training.data.loader import Batch
from training.engine.gather import GatheredFeatures, gather
from training.models.image_pass import ImagePass, encode_image, num_patches
from training.models.text_pass import encode_text
from training.models.token_select import Masking, RandomMasking, num_kept, random_keep

Features = dict[str, Tensor]
MAX_LOGIT_SCALE = 4.605170185988092  # log 100, the bound of CLIP


class MethodConfig(Section):
    """Base of the methods' own configs; each adds ``kind``, its key in ``training.methods.METHODS``."""


class ParamGroup(NamedTuple):
    """Parameters that share optimiser settings."""

    params: list[tuple[str, nn.Parameter]]
    weight_decay: float
    lr_scale: float = 1.0


class StepOutput(NamedTuple):
    """What one step yields.

    Attributes:
        losses: Weighted terms, scalar; the engine sums all of them.
        logs: Detached scalars worth a curve; never summed.
    """

    losses: dict[str, Tensor]
    logs: dict[str, Tensor]


class Method(nn.Module):
    """Base class with the defaults; a subclass names its towers ``model`` (an open_clip model, what is exported)."""

    Config: type[MethodConfig] = MethodConfig
    image_mean: Tensor
    image_std: Tensor

    def __init__(self, config: MethodConfig, model: nn.Module, masking: Masking) -> None:
        super().__init__()
        self.config = config
        self.model: Any = model
        self.masking = masking
        self.register_buffer("image_mean", torch.tensor(OPENAI_DATASET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("image_std", torch.tensor(OPENAI_DATASET_STD).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def model_options(cls, config: MethodConfig) -> dict[str, Any]:
        """Return settings of the open_clip model that this method needs beside the towers; none by default."""
        return {}

    def normalize(self, image: Tensor) -> Tensor:
        """Turn uint8 pixels [B, 3, S, S] into the floats the tower expects, by open_clip's mean and deviation."""
        return (image.float() / 255 - self.image_mean) / self.image_std

    def encode_images(self, image: Tensor, seed: Tensor, view: int = 0) -> ImagePass:
        """Run the image tower; in training, on the tokens that the recipe's masking leaves.

        Args:
            image: Pixels, uint8 [B, 3, S, S].
            seed: One number per sample that its draws depend on, int64 [B].
            view: Number of the view; another view of a sample draws another mask.

        Returns:
            Features before normalisation, and what the tower knows on the way.
        """
        keep = None
        if self.training and isinstance(self.masking, RandomMasking):
            num_tokens = num_patches(self.model.visual)
            keep = random_keep(seed, num_tokens, num_kept(num_tokens, self.masking.keep), stream=view)
        return encode_image(self.model.visual, self.normalize(image), keep)

    def encode_captions(self, text: Tensor) -> Tensor:
        """Run the text tower.

        Args:
            text: Token ids, int64 [B, T]; columns that are padding in all rows may have been cut.

        Returns:
            Features before normalisation, [B, D].
        """
        return encode_text(self.model, text)

    def compile_towers(self) -> None:
        """Compile ``encode``, where nearly all the work is; gathering and losses stay as they are."""
        self.encode = torch.compile(self.encode)

    def encode(self, batch: Batch) -> Features:
        """Run the towers on this rank's batch.

        Args:
            batch: Views and tokens, [B, ...].

        Returns:
            Named tensors whose first dimension is B; each is gathered before the losses.
        """
        raise NotImplementedError

    def losses(self, features: GatheredFeatures, step: int) -> StepOutput:
        """Compute the loss terms on the features of all ranks.

        Args:
            features: What ``encode`` gave, gathered, [G, ...]; ``features.rows`` are this rank's. The engine averages
                terms and gradients over ranks, so a term is the mean over these rows or the same on every rank.
            step: Optimiser step, from 0.

        Returns:
            Loss terms and logs.
        """
        raise NotImplementedError

    def forward(self, batch: Batch, step: int) -> StepOutput:
        """Encode, gather and compute losses in one call, so that DDP and compile see a single entry."""
        return self.losses(gather(self.encode(batch)), step)

    def after_step(self, step: int) -> None:
        """Act after the optimiser; the default clamps the logit scale to [0, log 100]."""
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)

    def param_groups(self, weight_decay: float) -> list[ParamGroup]:
        """Group the trainable parameters; the default spares vectors and scalars from weight decay.

        Args:
            weight_decay: The recipe's value, for matrices and kernels.
        """
        named = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        return [
            ParamGroup([(name, p) for name, p in named if p.ndim >= 2], weight_decay),
            ParamGroup([(name, p) for name, p in named if p.ndim < 2], 0.0),
        ]
