"""The contract between a method and the engine: encode this rank's batch, then compute losses on gathered features."""

from typing import Any, NamedTuple

import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor, nn

from assets.section import Section
from training.data.loader import Batch
from training.engine.gather import gather

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

    def __init__(self, config: MethodConfig, model: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.model: Any = model
        self.register_buffer("image_mean", torch.tensor(OPENAI_DATASET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("image_std", torch.tensor(OPENAI_DATASET_STD).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def model_options(cls, config: MethodConfig) -> dict[str, Any]:
        """Return settings of the open_clip model that this method needs beside the towers; none by default."""
        return {}

    def normalize(self, image: Tensor) -> Tensor:
        """Turn uint8 pixels [B, 3, S, S] into the floats the tower expects, by open_clip's mean and deviation."""
        return (image.float() / 255 - self.image_mean) / self.image_std

    def encode(self, batch: Batch) -> Features:
        """Run the towers on this rank's batch.

        Args:
            batch: Views and tokens, [B, ...].

        Returns:
            Named tensors whose first dimension is B; each is gathered before the losses.
        """
        raise NotImplementedError

    def losses(self, features: Features, step: int) -> StepOutput:
        """Compute the loss terms on the features of all ranks.

        Args:
            features: What ``encode`` gave, gathered, [G, ...].
            step: Optimiser step, from 0.

        Returns:
            Loss terms and logs.
        """
        raise NotImplementedError

    def forward(self, batch: Batch, step: int) -> StepOutput:
        """Encode, gather and compute losses in one call, so that DDP and compile see a single entry."""
        features = {name: gather(value) for name, value in self.encode(batch).items()}
        return self.losses(features, step)

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
