"""The exponential moving average of a model's weights, which is what gets exported when a recipe asks for it.

After every optimiser step e <- d e + (1 - d) w. The decay is warmed up, d_t = min(d, (1 + t) / (10 + t)), so that a
short run is not an average over its random start (the rule of TensorFlow's ExponentialMovingAverage).
"""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Holds the average of every floating-point tensor of a module's state; others follow the module.

    Attributes:
        tensors: Name -> average, in the layout of the module's own tensors (sharded ones stay sharded).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._module, self._decay = module, decay
        self.tensors = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the module's present weights.

        Args:
            step: The optimiser step just taken, from 0.
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, value in self._module.state_dict().items():
            if value.is_floating_point():
                self.tensors[name].lerp_(value, 1 - decay)
            else:
                self.tensors[name].copy_(value)

    @contextmanager
    def in_place(self) -> Generator[None]:
        """Let the module have the averaged weights inside the block."""
        state = self._module.state_dict()
        own: dict[str, Tensor] = {name: value.detach().clone() for name, value in state.items()}
        self._copy(self.tensors)
        try:
            yield
        finally:
            self._copy(own)

    @torch.no_grad()
    def _copy(self, source: dict[str, Tensor]) -> None:
        for name, value in self._module.state_dict().items():
            value.copy_(source[name])
