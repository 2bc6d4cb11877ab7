"""The head that is trained on frozen features: a residual MLP and a linear classifier.

``z = s * MLP(f) + f`` and logits ``W z + b``, with s a learned number per dimension. Each hidden layer of the MLP is a
linear layer, batch norm and ReLU. It knows nothing of the encoder: features may come from any model, or an interface.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn

from assets.errors import DataError, message
from evaluation.tuning.config import HeadConfig


class ResidualHead(nn.Module):
    """A residual MLP and a linear classifier, or with 0 hidden layers the classifier alone."""

    feature_scale: Tensor

    def __init__(self, dims: int, num_classes: int, config: HeadConfig, generator: torch.Generator) -> None:
        """Draw the initial weights.

        Args:
            dims: D of the frozen features.
            num_classes: C.
            config: The shape.
            generator: Source of the weights; the classifier's come first, so that they are the same for every MLP.
        """
        super().__init__()
        self.mlp: nn.Sequential | None = None
        self.residual_scale: nn.Parameter | None = None
        with torch.random.fork_rng(devices=()):  # new layers draw weights from the global generator
            self.classifier = nn.Linear(dims, num_classes)
            if config.hidden_layers:
                self.mlp = _mlp(dims, config)
        _fill(self.classifier, math.sqrt(6 / dims), generator)
        nn.init.zeros_(self.classifier.bias)
        if self.mlp is not None:
            for layer in self.mlp:
                if isinstance(layer, nn.Linear):
                    _fill(layer, 1 / math.sqrt(layer.in_features), generator)
            self.residual_scale = nn.Parameter(torch.full((1, dims), config.residual_scale))
        self.register_buffer("feature_scale", torch.ones(()))

    @torch.no_grad()
    def set_scale(self, features: Tensor) -> None:
        """Divide features by the root mean square of these from now on.

        Args:
            features: Those of the training images, [n, D].

        Raises:
            DataError: All are zero.
        """
        size = features.double().square().mean().sqrt()
        if size == 0:
            raise DataError(message("all features are zero", fix="export the model anew; it does not look at images"))
        self.feature_scale.copy_(1 / size)

    def adapt(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Adapt frozen features.

        Args:
            features: [n, D].

        Returns:
            z, and the features as scaled, which are what z is compared with, [n, D] each.
        """
        scaled = features * self.feature_scale
        if self.mlp is None or self.residual_scale is None:
            return scaled, scaled
        return self.residual_scale * cast(Tensor, self.mlp(scaled)) + scaled, scaled

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits of frozen features [n, D], [n, C]."""
        return self.classifier(self.adapt(features)[0])


def _mlp(dims: int, config: HeadConfig) -> nn.Sequential:
    layers: list[nn.Module] = []
    width, hidden = dims, config.ratio * dims
    for _ in range(config.hidden_layers):
        linear = nn.Linear(width, hidden, bias=config.bias_before_norm)
        layers += [linear, nn.BatchNorm1d(hidden), nn.ReLU()]
        width = hidden
    layers.append(nn.Linear(width, dims))
    return nn.Sequential(*layers)


@torch.no_grad()
def _fill(layer: nn.Linear, bound: float, generator: torch.Generator) -> None:
    """Draw weights and bias evenly from +-bound."""
    for parameter in layer.parameters():
        parameter.uniform_(-bound, bound, generator=generator)
