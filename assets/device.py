"""Where models run: what the section ``machine`` asks for, on this machine."""

import torch

from assets.config import MachineConfig
from assets.errors import ConfigError, message


def pick_device(machine: MachineConfig, local_rank: int = 0) -> torch.device:
    """Choose the device the config asks for.

    Args:
        machine: Section ``machine``.
        local_rank: Number of this process on its machine.

    Raises:
        ConfigError: A GPU is demanded and there is none.
    """
    if machine.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(message("machine.device is cuda, but PyTorch sees no GPU", fix='set it to "auto" or "cpu"'))
    if machine.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local_rank)
