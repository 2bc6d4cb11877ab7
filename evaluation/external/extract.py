"""Features of a set from elsewhere: its pictures encoded once, by the same encoder as the model's own data set.

Pictures are decoded as clip-benchmark does it (Pillow, converted to RGB: no camera orientation, no white ground), and
not as ours are, because these scores stand beside published ones.
"""

import io
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from assets.errors import DataError, message
from assets.picture import FORMATS, MAX_PIXELS, PictureError, TooLargeError
from assets.progress import Progress, Stage
from evaluation.encoder import Encoder
from evaluation.external.config import ExternalConfig
from evaluation.external.layout import ExternalSet, Place, check_cover
from evaluation.features import Batches, Features, SplitFeatures
from evaluation.samples import ClassFacts
from evaluation.sides import Array, Query, TextSide, distinct
from evaluation.zero_shot import NO_FREQUENCY

DAMAGED, TOO_LARGE = "damaged or no picture", f"more than {MAX_PIXELS} pixels"


@dataclass(frozen=True, slots=True)
class _Decoded:
    """A batch: its readable pictures, [B, 3, height, width], and position and reason of the others."""

    images: torch.Tensor | None
    failed: list[tuple[int, str]]
    size: int


class _LongTexts:
    """A text side that takes whatever it gets for descriptions of several sentences."""

    def __init__(self, text: TextSide) -> None:
        self._text = text

    def encode(self, captions: Sequence[str], query: Query = "caption") -> Array:
        """Encode texts, whatever the query says, [len(captions), D]."""
        return self._text.encode(captions, "long")

    def count_cut(self, captions: Sequence[str], query: Query = "caption") -> int:
        """Return how many texts are cut."""
        return self._text.count_cut(captions, "long")


class _Pictures(Dataset[tuple[int, torch.Tensor | str]]):
    """Position, and the preprocessed picture or the reason why there is none."""

    def __init__(self, places: Sequence[Place], preprocess: Callable[[npt.NDArray[np.uint8]], torch.Tensor]) -> None:
        self._places, self._preprocess = places, preprocess

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, position: int) -> tuple[int, torch.Tensor | str]:
        place = self._places[position]
        with place.shard.open("rb") as stream:
            stream.seek(place.offset)
            data = stream.read(place.size)
        try:
            pixels = plain_pixels(data)
        except TooLargeError:
            return position, TOO_LARGE
        except PictureError:
            return position, DAMAGED
        return position, self._preprocess(pixels)


def plain_pixels(data: bytes) -> npt.NDArray[np.uint8]:
    """Decode a picture as clip-benchmark does.

    Args:
        data: The file.

    Returns:
        RGB, [height, width, 3].

    Raises:
        PictureError: It is damaged, too large, or no picture.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise TooLargeError(width, height)
            return np.asarray(picture.convert("RGB"))
    except (PictureError, MemoryError):
        raise
    except Exception as error:  # Pillow's readers raise whatever a damaged file makes them stumble over
        raise PictureError(str(error) or type(error).__name__) from error


def extract_set(
    external: ExternalSet,
    config: ExternalConfig,
    needs: Collection[str],
    encoder: Encoder,
    batches: Batches,
    stage: Stage,
) -> tuple[Features, list[str]]:
    """Encode one set.

    Args:
        external: The set, read and checked.
        config: How its texts are to be taken, and how many pictures may be unreadable.
        needs: What evaluators want of it, see ``PROVIDED``.
        encoder: The model.
        batches: How pictures are read.
        stage: For progress.

    Returns:
        Features with one split, whose suite is the set's name, and what was left out.

    Raises:
        DataError: Too many pictures cannot be decoded, or all of a class.
    """
    failed: list[tuple[int, str]] = []
    images: list[Array] = []
    pooled: list[Array] = []
    with stage.progress(f"encode {external.name}", len(external.keys), "image") as progress:
        readable = _readable(_Pictures(external.pictures, encoder.preprocess_array), batches, failed, progress)
        for batch in encoder.encode_images(readable):
            images.append(batch.image_features)
            if "pooled" in needs:
                pooled.append(batch.pooled_features)
    notes = _failure_notes(external, failed, config.max_unreadable)
    lost = {position for position, _ in failed}
    kept = [position for position in range(len(external.keys)) if position not in lost]
    text: TextSide = _LongTexts(encoder.text) if config.texts == "long" else encoder.text
    captions = [external.captions[row] for row in kept] if external.captions else []
    labels = [external.labels[row] for row in kept] if external.labels else None
    if labels is not None:
        check_cover(external.folder, labels, external.classes)
    split = SplitFeatures(
        split=external.name,
        role=external.role,
        suite=external.name,
        keys=[external.keys[row] for row in kept],
        image_features=np.concatenate(images),
        class_ids=None if labels is None else tuple(labels),
        **_first_captions(captions if "captions" in needs else [], text),
        pooled_features=np.concatenate(pooled) if pooled else None,
        caption_sets=captions,
    )
    return Features((split,), _class_facts(external.classes), text), notes


def _readable(
    pictures: _Pictures, batches: Batches, failed: list[tuple[int, str]], progress: Progress
) -> Iterator[torch.Tensor]:
    """Yield batches of the pictures that can be decoded, [B, 3, height, width]; add the others to ``failed``."""
    workers = min(batches.workers, -(-len(pictures) // batches.size))
    loader: DataLoader[Any] = DataLoader(pictures, batches.size, num_workers=workers, collate_fn=_collate)
    for batch in loader:
        failed += batch.failed
        progress.advance(batch.size)
        if batch.images is not None:
            yield batch.images


def _collate(items: Sequence[tuple[int, torch.Tensor | str]]) -> _Decoded:
    images = [image for _, image in items if isinstance(image, torch.Tensor)]
    failed = [(position, reason) for position, reason in items if isinstance(reason, str)]
    return _Decoded(torch.stack(images) if images else None, failed, len(items))


def _failure_notes(external: ExternalSet, failed: Sequence[tuple[int, str]], most: float) -> list[str]:
    """Count unreadable pictures by reason; refuse when there are too many."""
    if not failed:
        return []
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(Counter(r for _, r in failed).items()))
    first = external.keys[failed[0][0]]
    what = f"{external.folder}: {len(failed)} of {len(external.keys)} pictures cannot be decoded ({reasons})"
    if len(failed) > most * len(external.keys) or len(failed) == len(external.keys):
        fix = f"get or make the set anew, or raise evaluation.external.{external.name}.max_unreadable"
        raise DataError(message(f"{what}, the first is {first}", wanted=f"at most {most:.2%}", fix=fix))
    return [f"{what} and are left out, the first is {first}"]


def _first_captions(captions: Sequence[Sequence[str]], text: TextSide) -> dict[str, Any]:
    """Return the fields of ``SplitFeatures`` for evaluators that know one caption per picture: the first."""
    if not captions:
        return {"texts": [], "text_features": None, "text_rows": None}
    texts, rows = distinct([own[0] for own in captions])
    return {"texts": texts, "text_features": text.encode(texts), "text_rows": rows}


def _class_facts(names: Sequence[str]) -> tuple[ClassFacts, ...]:
    """Describe classes of which nothing but the names is known."""
    return tuple(ClassFacts(row, name, name, "", 0, NO_FREQUENCY) for row, name in enumerate(names))
