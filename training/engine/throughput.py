"""How well the hardware is used: model-FLOPs utilisation against the processor's peak, and memory."""

import resource
import time

import psutil
import torch

_DENSE_BF16_PEAK = {
    # operations per second without sparsity, from the vendors' data sheets
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "V100": 125e12,
    "T4": 65e12,
}
_SIDE = 1024
_REPEATS = 5


def peak_flops(device: torch.device, bf16: bool) -> float:
    """Return the operations per second that the matrix units of one device can do.

    Args:
        device: A GPU known by name has its data sheet's figure (half of it in TF32); everything else is measured.
        bf16: Whether the run uses bfloat16.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for known, peak in _DENSE_BF16_PEAK.items():
            if known in name:
                return peak if bf16 else peak / 2
    return _measured_peak(device, torch.bfloat16 if bf16 and device.type == "cuda" else torch.float32)


def _measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Time the best of a few products of square matrices with the threads that training uses."""
    side = _SIDE if device.type == "cpu" else 8 * _SIDE
    matrix = torch.ones(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        torch.mm(matrix, matrix)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return 2 * side**3 / best


def process_seconds() -> float:
    """Return the seconds since this process was started, its imports included."""
    return time.time() - psutil.Process().create_time()


def peak_memory_gib(device: torch.device) -> float:
    """Return the most memory in GiB this process has held: on the GPU, or resident in main memory without one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
