"""The largest inner product of any token with each word, without a tensor of all tokens and words.

    pooled[b, j] = max over tokens i of z[b, i] . Z[j]

The tensor [B, N, V] of all products is made a few samples at a time and forgotten. Only one token of a sample gets a
gradient from a word, the one that won it, so the backward pass multiplies sparse matrices: B V D operations for each of
both gradients in place of B N V D.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")

_PRODUCTS_AT_ONCE = 2**21
"""On a CPU whose caches then hold them; a GPU takes sixteen times as many."""
_ON_GPU = 16


def max_dot(tokens: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the largest product and which token it was.

    Args:
        tokens: z, [B, N, D].
        codebook: Z, [V, D].

    Returns:
        Products in float32 at least, [B, V], and the winning tokens, int64 [B, V]; of equal products any one wins.
    """
    return _apply(tokens, codebook)


class _MaxDot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
        batch, number, _ = tokens.shape
        device = tokens.device.type
        autocast = device != "meta" and torch.is_autocast_enabled(device)
        compute = torch.get_autocast_dtype(device) if autocast else tokens.dtype
        words = codebook.to(compute)
        limit = _PRODUCTS_AT_ONCE * (_ON_GPU if device == "cuda" else 1)
        at_once = max(1, limit // (number * len(codebook)))
        pooled = tokens.new_empty(batch, len(codebook), dtype=torch.promote_types(tokens.dtype, torch.float32))
        winner = torch.empty(batch, len(codebook), dtype=torch.int64, device=tokens.device)
        for start in range(0, batch, at_once):
            rows = slice(start, start + at_once)
            part = tokens[rows].to(compute)
            products = (part.flatten(0, 1) @ words.T).unflatten(0, (len(part), number))  # [b, N, V]
            best = products.max(dim=1)
            pooled[rows], winner[rows] = best.values, best.indices
        ctx.save_for_backward(tokens, codebook, winner)
        ctx.mark_non_differentiable(winner)
        return pooled, winner

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        tokens, codebook, winner = ctx.saved_tensors
        full = torch.promote_types(tokens.dtype, torch.float32)
        grad, states, words = grad_outputs[0].to(full), tokens.to(full), codebook.to(full)
        if grad.is_meta:  # shapes and operations only: there are no sparse matrices of that kind
            by_token = (grad @ words)[:, None].expand(tokens.shape)
            return by_token, grad.T @ states[:, 0]
        by_token = (_of_tokens(grad, winner, tokens.shape[1]) @ words).unflatten(0, tokens.shape[:2])
        by_word = _of_words(grad, winner, tokens.shape[1]) @ states.flatten(0, 1)
        return by_token.to(tokens.dtype), by_word.to(codebook.dtype)


def _uncompiled(tokens: Tensor, codebook: Tensor) -> Any:
    return _MaxDot.apply(tokens, codebook)


# the compiler has no sparse matrices; it goes on behind this call
_apply: Callable[[Tensor, Tensor], Any] = torch.compiler.disable(_uncompiled)  # pyright: ignore[reportAssignmentType]


def _of_tokens(grad: Tensor, winner: Tensor, number: int) -> Tensor:
    """Return the gradient of the products as a sparse matrix [B N, V]: one entry per sample and word."""
    batch, num_words = grad.shape
    order = torch.argsort(winner, dim=1, stable=True)  # words of the first token, then of the second, ...
    rows = winner + number * torch.arange(batch, device=grad.device)[:, None]
    ends = torch.bincount(rows.flatten(), minlength=batch * number).cumsum(0)
    starts = torch.cat([ends.new_zeros(1), ends])
    values = grad.gather(1, order).flatten()
    return _sparse(starts, order.flatten(), values, (batch * number, num_words))


def _of_words(grad: Tensor, winner: Tensor, number: int) -> Tensor:
    """Return the transpose, [V, B N]: each word has one entry per sample."""
    batch, num_words = grad.shape
    rows = winner + number * torch.arange(batch, device=grad.device)[:, None]
    starts = batch * torch.arange(num_words + 1, device=grad.device)
    return _sparse(starts, rows.T.flatten(), grad.T.flatten(), (num_words, batch * number))


def _sparse(starts: Tensor, columns: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.sparse_csr_tensor(starts, columns, values, size, check_invariants=False)
