"""The head of a lexical model: the largest product of any patch with each word, against a tensor of all products.

python benchmarks/lexical_head.py

Forward and backward pass, in turns, one thread; ``all_products`` is the plain way, ``max`` over the tensor [B, N, V].
"""

import statistics
import time
from collections.abc import Callable

import torch
from record import record
from torch import Tensor

from training.models.max_dot import max_dot

TURNS = 7
# batch, patches, words, width of the states
SIZES = {"profile lexvla": (64, 65, 1138, 576), "17,149 words": (8, 65, 17149, 576), "257 tokens": (8, 257, 4000, 768)}


def all_products(tokens: Tensor, codebook: Tensor) -> Tensor:
    """Compute the largest products from the tensor of all of them."""
    return (tokens.flatten(0, 1) @ codebook.T).unflatten(0, tokens.shape[:2]).max(dim=1).values


def sparse(tokens: Tensor, codebook: Tensor) -> Tensor:
    """Compute them our way."""
    return max_dot(tokens, codebook)[0]


def seconds(way: Callable[[Tensor, Tensor], Tensor], tokens: Tensor, codebook: Tensor, weights: Tensor) -> float:
    """Return the CPU seconds of one forward and backward pass."""
    tokens.grad = codebook.grad = None
    begin = time.process_time()
    (way(tokens, codebook) * weights).sum().backward()
    return time.process_time() - begin


def main() -> None:
    """Measure all sizes and write the result."""
    torch.set_num_threads(1)
    results: dict[str, object] = {"turns": TURNS, "threads": 1}
    for name, (batch, number, words, width) in SIZES.items():
        torch.manual_seed(0)
        tokens = torch.randn(batch, number, width, requires_grad=True)
        codebook = torch.randn(words, width, requires_grad=True)
        weights = torch.rand(batch, words)
        ways = {"all_products": all_products, "sparse": sparse}
        found: dict[str, list[float]] = {way: [] for way in ways}
        gradients: dict[str, Tensor] = {}
        for turn in range(TURNS + 1):
            for way, function in ways.items():
                taken = seconds(function, tokens, codebook, weights)
                assert tokens.grad is not None
                gradients[way] = tokens.grad.clone()
                if turn:  # the first one allocates
                    found[way].append(taken)
        medians = {way: statistics.median(times) for way, times in found.items()}
        ratios = [whole / ours for whole, ours in zip(found["all_products"], found["sparse"], strict=True)]
        results[name] = {
            "sizes": {"batch": batch, "tokens": number, "words": words, "width": width},
            "cpu_seconds": {way: round(value, 4) for way, value in medians.items()},
            "times_faster": round(statistics.median(ratios), 2),
            "largest_difference_of_gradients": float((gradients["sparse"] - gradients["all_products"]).abs().max()),
            "tensor_of_all_products_mib": round(batch * number * words * 4 / 2**20, 1),
        }
        print(name, results[name])
    record("lexical_head", results)


if __name__ == "__main__":
    main()
