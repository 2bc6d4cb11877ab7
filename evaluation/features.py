"""One pass over the evaluation data per model: every feature that any evaluator needs, extracted once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from assets.progress import Stage
from evaluation.encoder import Encoder
from evaluation.samples import ClassFacts, SplitFacts, dataset_classes, dataset_splits, read_dataset, split_pairs
from training.data.pairs import PairReader, Pairs

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SplitFeatures:
    """The features of one split, rows in index order.

    Attributes:
        split: Its name.
        role: Its role.
        suite: The suite its scores are reported under.
        keys: Sample keys, [n].
        image_features: Unit norm, [n, D].
        class_ids: Class of each sample, [n], for the role ``zero_shot``, otherwise None.
        texts: Distinct captions in order of first appearance, [u]; empty when captions were not asked for.
        text_features: Unit norm, [u, D], or None.
        text_rows: Row of each sample's caption in ``texts``, [n], or None.
        pooled_features: Before the projection, not normalised, [n, W], or None when they were not asked for.
    """

    split: str
    role: str
    suite: str
    keys: list[str]
    image_features: Array
    class_ids: tuple[int, ...] | None
    texts: list[str]
    text_features: Array | None
    text_rows: npt.NDArray[np.int64] | None
    pooled_features: Array | None = None


@dataclass(frozen=True, slots=True)
class Features:
    """Everything an evaluator may use.

    Attributes:
        splits: The splits that were asked for, sorted by name.
        classes: The zero-shot classes.
        encode_captions: Captions -> unit-norm features [len, D], for prompts.
    """

    splits: tuple[SplitFeatures, ...]
    classes: tuple[ClassFacts, ...]
    encode_captions: Callable[[Sequence[str]], Array]

    def with_role(self, role: str) -> list[SplitFeatures]:
        """Return the splits of one role, sorted by suite."""
        return sorted((split for split in self.splits if split.role == role), key=lambda split: split.suite)


class _Images(Dataset[torch.Tensor]):
    """The preprocessed pictures of a split, in order."""

    def __init__(self, pairs: Pairs, preprocess: Callable[[npt.NDArray[np.uint8]], torch.Tensor]) -> None:
        self._pairs = pairs
        self._preprocess = preprocess
        self._reader: PairReader | None = None

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, position: int) -> torch.Tensor:
        if self._reader is None:  # one per worker process
            self._reader = PairReader(self._pairs)
        return self._preprocess(self._reader.image(position))


@dataclass(frozen=True, slots=True)
class Batches:
    """How pictures are read.

    Attributes:
        size: Pictures per batch.
        workers: Processes that decode beside the main one.
    """

    size: int
    workers: int

    def of(self, images: Dataset[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Yield the pictures in order, [B, 3, height, width]; the last batch may be short."""
        # never more workers than batches: each costs a fork
        workers = min(self.workers, -(-len(images) // self.size))  # pyright: ignore[reportArgumentType]
        loader: DataLoader[Any] = DataLoader(images, batch_size=self.size, num_workers=workers, drop_last=False)
        yield from loader


def distinct(captions: Sequence[str]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Return the distinct captions in order of first appearance, and the place of each caption among them."""
    places: dict[str, int] = {}
    rows = np.array([places.setdefault(caption, len(places)) for caption in captions], dtype=np.int64)
    return list(places), rows


def extract(
    encoder: Encoder,
    raw: Path,
    valid: Path,
    needs: Mapping[str, frozenset[str]],
    batches: Batches,
    stage: Stage,
    params: Path,
) -> Features:
    """Encode the accepted samples of every split that some evaluator needs.

    Args:
        encoder: The model.
        raw: Folder of ``ingest``.
        valid: Folder of ``validate``.
        needs: Split role -> ``"images"``, ``"pooled"`` and ``"captions"`` as wanted; images always come.
        batches: How pictures are read.
        stage: For progress.
        params: The params.yaml, which names the store when shards are URLs.

    Returns:
        The features.
    """
    dataset = read_dataset(raw)
    splits = [(facts, *split_pairs(raw, valid, facts, params)) for facts in dataset_splits(dataset, needs, raw)]
    found: list[SplitFeatures] = []
    with stage.progress("encode", sum(len(pairs) for _, pairs, _ in splits), "image") as progress:
        for facts, pairs, class_ids in splits:
            wanted = needs[facts.role]
            parts: list[Array] = []
            pooled: list[Array] = []
            for batch in encoder.encode_images(batches.of(_Images(pairs, encoder.preprocess_array))):
                parts.append(batch.image_features)
                if "pooled" in wanted:
                    pooled.append(batch.pooled_features)
                progress.advance(len(batch.image_features))
            split = _split_features(
                facts, pairs, class_ids, np.concatenate(parts), encoder if "captions" in wanted else None
            )
            found.append(replace(split, pooled_features=np.concatenate(pooled)) if pooled else split)
    return Features(tuple(found), dataset_classes(dataset), encoder.encode_captions)


def _split_features(
    facts: SplitFacts,
    pairs: Pairs,
    class_ids: tuple[int, ...] | None,
    image_features: Array,
    encoder: Encoder | None,
) -> SplitFeatures:
    """Put a split together; captions are encoded when there is an encoder, equal ones once."""
    texts, text_rows = distinct(pairs.captions.to_pylist())
    return SplitFeatures(
        split=facts.name,
        role=facts.role,
        suite=facts.suite,
        keys=pairs.keys.to_pylist(),
        image_features=image_features,
        class_ids=class_ids,
        texts=texts if encoder else [],
        text_features=encoder.encode_captions(texts) if encoder else None,
        text_rows=text_rows if encoder else None,
    )
