"""The two sides of an exported model as evaluators see them: pictures -> features, and texts -> features.

There are three kinds of exports: those of open_clip (``open_clip_export.py``), those whose towers were cut
(``dense_export.py``), and those whose text is a frozen encoder that training never touched
(``frozen_text_export.py``). This module stays light: evaluators import it, and they are imported wherever params.yaml
is read.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from assets.errors import DataError, message

if TYPE_CHECKING:
    import torch

    from assets.language.lexicon import Lexicon

Array = npt.NDArray[np.float32]
Query = Literal["caption", "long"]
"""What a text is: a class prompt or an ordinary caption, or a description of several sentences."""
_Batch = TypeVar("_Batch")
_Encoded = TypeVar("_Encoded")


class ImageFeatures(NamedTuple):
    """What the image side says of a batch, from one forward pass.

    Attributes:
        image_features: In the space shared with texts, unit norm, [B, D].
        pooled_features: Before the projection or head that leads there, not normalised, [B, W].
    """

    image_features: Array
    pooled_features: Array


class ImageSide(Protocol):
    """The image side of an export.

    Attributes:
        preprocess: Picture -> tensor [3, height, width], as the export's own config says.
    """

    preprocess: Callable[[Any], Any]

    def encode(self, images: "torch.Tensor") -> ImageFeatures:
        """Encode one batch of preprocessed pictures, [B, 3, height, width]."""
        ...


@runtime_checkable
class PatchSide(ImageSide, Protocol):
    """An image side that may tell patches apart.

    Attributes:
        grid: Rows and columns of patches, or None for a tower without patch tokens.
    """

    grid: tuple[int, int] | None

    def encode_patches(self, images: "torch.Tensor") -> Array:
        """Encode the patches of one batch of preprocessed pictures, [B, 3, height, width].

        Returns:
            In the space shared with texts, row by row of the grid, unit norm, [B, N, D].
        """
        ...


class PatchFeatures(NamedTuple):
    """What the image side says of the patches of a batch.

    Attributes:
        patch_features: In the space shared with texts, unit norm, [B, N, D].
        sizes: Height and width of each picture as stored.
        shown: Height and width of what the model got.
    """

    patch_features: Array
    sizes: list[tuple[int, int]]
    shown: tuple[int, int]


class TextSide(Protocol):
    """The text side of an export."""

    def encode(self, captions: Sequence[str], query: Query = "caption") -> Array:
        """Encode any number of texts.

        Args:
            captions: The texts.
            query: What they are.

        Returns:
            Unit norm, [len(captions), D].
        """
        ...

    def count_cut(self, captions: Sequence[str], query: Query = "caption") -> int:
        """Return how many texts the text side cuts because they are too long for it."""
        ...


@runtime_checkable
class SlotTextSide(TextSide, Protocol):
    """A text side that can answer with each of the slots that the model was trained on.

    Attributes:
        slots: Their names, CAPTION/FACET.
    """

    slots: tuple[str, ...]

    def encode_slots(self, captions: Sequence[str]) -> Array:
        """Encode texts once for every slot, as training did with its rows.

        Returns:
            Unit norm, [len(captions), len(slots), D].
        """
        ...


@runtime_checkable
class LexicalTextSide(TextSide, Protocol):
    """A text side whose features may be weights of words.

    Attributes:
        lexicon: The words, one per dimension, or None where dimensions are no words.
    """

    lexicon: "Lexicon | None"


def in_order(encode: Callable[[_Batch], _Encoded], batches: Iterable[_Batch], at_once: int) -> Iterator[_Encoded]:
    """Encode several batches at a time; never hold more than can be worked on.

    Args:
        encode: Works on one batch, in a thread of its own.
        batches: The batches.
        at_once: How many at a time.

    Yields:
        What ``encode`` returns, in the order of the batches.
    """
    with ThreadPoolExecutor(at_once) as pool:
        waiting: deque[Future[_Encoded]] = deque()
        for batch in batches:
            waiting.append(pool.submit(encode, batch))
            if len(waiting) > at_once:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def distinct(captions: Sequence[str]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Return the distinct captions in order of first appearance, and the place of each caption among them."""
    places: dict[str, int] = {}
    rows = np.array([places.setdefault(caption, len(places)) for caption in captions], dtype=np.int64)
    return list(places), rows


def checked(features: "torch.Tensor") -> Array:
    """Move features to numpy and refuse what is not finite, which would rank nowhere without a word.

    Args:
        features: Of any shape.

    Raises:
        DataError: Some number is not finite.
    """
    array = features.float().cpu().numpy()
    if not np.isfinite(array).all():
        raise DataError(message("the model gives features that are not finite", fix="its training diverged"))
    return array
