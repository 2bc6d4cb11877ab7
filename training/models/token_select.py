"""Random numbers and random image tokens by a number of the sample's own: batch, rank and device do not enter."""

import torch
from torch import Tensor

# SplitMix64's finaliser (Steele, Lea, Flood 2014), its unsigned constants as the int64 of the same bits
_MULTIPLIERS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)
_MANTISSA_BITS = 24  # what a float32 below 1 holds exactly


def uniform_from_seeds(seed: Tensor, count: int, stream: int) -> Tensor:
    """Draw numbers that depend on nothing but (seed, position, stream), by hashing all three.

    Args:
        seed: One number per sample, int64 [B].
        count: Draws per sample.
        stream: Tells draws for different purposes apart, e.g. the number of the view.

    Returns:
        Draws in [0, 1), float32 [B, count], the same on every device.
    """
    start = _mix(_mix(seed) + (stream + 1))  # [B]; one more, because zero hashes to zero
    # only small numbers are added: compilers treat a multiple of arange as an index and let it overflow
    bits = _mix(start[:, None] + torch.arange(count, device=seed.device))  # [B, count]
    return _shift_right(bits, 64 - _MANTISSA_BITS).float() * 2.0**-_MANTISSA_BITS


def random_keep(seed: Tensor, num_tokens: int, num_keep: int, stream: int = 0) -> Tensor:
    """Choose patches uniformly without replacement: those with the smallest draws.

    Args:
        seed: One number per sample, int64 [B].
        num_tokens: Patches of an image, N.
        num_keep: Patches that stay, K, at most N.
        stream: See :func:`uniform_from_seeds`.

    Returns:
        Patch indices in ascending order, int64 [B, K].
    """
    draws = uniform_from_seeds(seed, num_tokens, stream)
    # stable, because two of the draws can be equal and devices would then disagree
    order = torch.argsort(draws, dim=1, stable=True)
    return order[:, :num_keep].sort(dim=1).values


def _shift_right(bits: Tensor, places: int) -> Tensor:
    """Shift int64 as if it were unsigned: torch's own shift copies the sign bit."""
    return (bits >> places) & ((1 << (64 - places)) - 1)


def _mix(bits: Tensor) -> Tensor:
    """Apply SplitMix64's finaliser, a bijection of the 64-bit numbers; products wrap around."""
    bits = (bits ^ _shift_right(bits, 30)) * _MULTIPLIERS[0]
    bits = (bits ^ _shift_right(bits, 27)) * _MULTIPLIERS[1]
    return bits ^ _shift_right(bits, 31)
