"""How large the largest tensor is that a piece of code makes."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class LargestTensor(TorchDispatchMode):
    """Inside ``with``, ``elements`` follows the number of elements of the largest result, backward included."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.elements = max(self.elements, result.numel() if isinstance(result, torch.Tensor) else 0)
        return result
