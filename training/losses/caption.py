"""The loss of a text decoder: how badly each token of a caption is foreseen from those before it."""

from torch import Tensor
from torch.nn import functional

from training.losses.info_nce import at_least_float32

IGNORED = -100
"""The label of a place that does not count, such as padding."""


def caption_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum -log p(token t+1 | tokens up to t) over all places t+1 that count.

    Args:
        logits: Scores of the token that comes next, [B, T, V].
        labels: The tokens themselves, ``IGNORED`` where a place does not count, int64 [B, T].

    Returns:
        Scalar; the logits of the last place are for a token that nobody knows, and get no gradient.
    """
    foreseen = at_least_float32(logits[:, :-1]).flatten(0, 1)  # [B * (T - 1), V]
    return functional.cross_entropy(foreseen, labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum")


def mean_log_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean log p of the tokens that count, of each caption by itself, [B]; NaN where none counts.

    Args:
        logits: As in :func:`caption_nll`, [B, T, V].
        labels: int64 [B, T].
    """
    foreseen = at_least_float32(logits[:, :-1]).transpose(1, 2)  # [B, V, T - 1]
    nll = functional.cross_entropy(foreseen, labels[:, 1:], ignore_index=IGNORED, reduction="none")
    return -nll.sum(dim=1) / (labels[:, 1:] != IGNORED).sum(dim=1)


def places_that_count(labels: Tensor) -> Tensor:
    """Count the terms of :func:`caption_nll`, a scalar, int64.

    Args:
        labels: int64 [B, T].
    """
    return (labels[:, 1:] != IGNORED).sum()


def caption_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean -log p of the tokens that count.

    Args:
        logits: Scores of the token that comes next, [B, T, V].
        labels: int64 [B, T], see :func:`caption_nll`.

    Returns:
        Scalar; log V for a decoder that knows nothing.
    """
    return caption_nll(logits, labels) / places_that_count(labels)
