"""What the encoders of captions share: batches of bounded tokens, and the refusal of answers that are not finite."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assets.errors import DataError, message

_SHOWN_CHARS = 80
_TOKENS_PER_BATCH = {"cpu": 512}
"""Of a processor, whose caches then hold a layer's activations: a tenth to a quarter faster than 2,048."""
_MOST_TOKENS = 2048


def usual_tokens(device_type: str) -> int:
    """Return how many tokens at a time suit a kind of device, padding included."""
    return _TOKENS_PER_BATCH.get(device_type, _MOST_TOKENS)


def batches(lengths: Sequence[int], extra: int, most_tokens: int) -> Iterator[list[int]]:
    """Yield row numbers, short sequences first, such that the padded batch keeps to the budget.

    Args:
        lengths: Tokens of each sequence.
        extra: Tokens that each gets beside its own.
        most_tokens: The budget; one sequence is a batch whatever its length.
    """
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * (lengths[row] + extra) > most_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def check_finite(model: str, dtype: Any, captions: Sequence[str], states: NDArray[np.float32]) -> None:
    """Refuse answers of a language model that are not finite.

    Args:
        model: Its name.
        dtype: In which type it computed.
        captions: What it was asked, [B].
        states: Its answers, [B, ...].

    Raises:
        DataError: With the number of captions and the first of them.
    """
    bad = np.flatnonzero(~np.isfinite(states.reshape(len(states), -1)).all(axis=1))
    if len(bad):
        text = captions[bad[0]]
        shown = text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."
        what = f"{model} in {dtype} has no finite answer to {len(bad)} captions, such as {shown!r}"
        raise DataError(message(what, fix="use float32 or bfloat16, or drop the caption"))
