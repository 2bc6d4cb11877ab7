"""One pass over the evaluation data per model: every feature that any evaluator needs, extracted once."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from assets.features.captions import read_further_captions
from assets.progress import Progress, Stage
from evaluation.caption_lists import caption_list
from evaluation.encoder import Encoder
from evaluation.samples import (
    ClassFacts,
    dataset_classes,
    dataset_languages,
    dataset_splits,
    read_dataset,
    split_pairs,
)
from evaluation.sides import ImageFeatures, LexicalTextSide, PatchFeatures, TextSide, distinct
from training.data.metadata import MetadataReader, metadata_places
from training.data.pairs import PairReader, Pairs

if TYPE_CHECKING:
    from assets.language.lexicon import Lexicon

Array = npt.NDArray[np.float32]
_Item = TypeVar("_Item")
# a patch vector of a lexical model is as long as its vocabulary
_PATCHED_AT_ONCE = 16


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
        further_captions: Name -> the caption of that name in each sample's KEY.json, [n], None for samples that lack
            it; empty when they were not asked for.
        metadata: What each sample's KEY.json says, [n]; empty when it was not asked for.
        patches: Reads patches of chosen samples, or None when they were not asked for, or the model has none.
        pictures: Encodes pictures that are altered first, or None when that was not asked for.
        caption_sets: All captions of each picture, at least one each, [n]; empty when they were not asked for, or no
            picture has several.
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
    further_captions: Mapping[str, Sequence[str | None]] = field(default_factory=dict[str, Sequence[str | None]])
    metadata: Sequence[Mapping[str, Any]] = ()
    patches: "PatchReader | None" = None
    pictures: "PictureReader | None" = None
    caption_sets: Sequence[Sequence[str]] = ()


@dataclass(frozen=True, slots=True)
class Features:
    """Everything an evaluator may use.

    Attributes:
        splits: The splits that were asked for, sorted by name.
        classes: The zero-shot classes.
        text: The text side, for prompts and further captions.
        languages: Languages of the data set's captions, as dataset.json lists them.
    """

    splits: tuple[SplitFeatures, ...]
    classes: tuple[ClassFacts, ...]
    text: TextSide
    languages: tuple[str, ...] = ()

    @property
    def lexicon(self) -> "Lexicon | None":
        """The words that the dimensions of features stand for, or None where they stand for nothing."""
        return self.text.lexicon if isinstance(self.text, LexicalTextSide) else None

    def with_role(self, role: str) -> list[SplitFeatures]:
        """Return the splits of one role, sorted by suite."""
        return sorted((split for split in self.splits if split.role == role), key=lambda split: split.suite)


class Images(Dataset[torch.Tensor]):
    """The preprocessed pictures of a split, in order."""

    def __init__(self, pairs: Pairs, preprocess: Callable[[npt.NDArray[np.uint8]], torch.Tensor]) -> None:
        self._pairs = pairs
        self._preprocess = preprocess
        self._reader: PairReader | None = None

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, position: int) -> torch.Tensor:
        return self._preprocess(self.pixels(position))

    def pixels(self, position: int) -> npt.NDArray[np.uint8]:
        """Decode one picture, [height, width, 3]."""
        if self._reader is None:  # one per worker process
            self._reader = PairReader(self._pairs)
        return self._reader.image(position)


class _SizedImages(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """The same, each with height and width of the picture as stored."""

    def __init__(self, pairs: Pairs, preprocess: Callable[[npt.NDArray[np.uint8]], torch.Tensor]) -> None:
        self._images, self._preprocess = Images(pairs, preprocess), preprocess

    def __getitem__(self, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = self._images.pixels(position)
        return self._preprocess(pixels), torch.tensor(pixels.shape[:2])


class Alteration(Protocol):
    """Changes a picture before the model's own preprocessing; goes to worker processes, so it must be picklable."""

    def __call__(self, pixels: npt.NDArray[np.uint8], key: str) -> npt.NDArray[np.uint8]:
        """Change one picture.

        Args:
            pixels: RGB, [height, width, 3].
            key: Of the sample, so that what is drawn depends on nothing else.

        Returns:
            RGB, [height', width', 3].
        """
        ...


class _AlteredImages(Dataset[torch.Tensor]):
    """The same, each altered before it is preprocessed."""

    def __init__(self, pairs: Pairs, preprocess: Callable[..., torch.Tensor], alter: Alteration) -> None:
        self._images, self._preprocess, self._alter = Images(pairs, preprocess), preprocess, alter
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, position: int) -> torch.Tensor:
        key: str = self._pairs.keys[position].as_py()
        return self._preprocess(self._alter(self._images.pixels(position), key))


@dataclass(frozen=True, slots=True)
class Batches:
    """How pictures are read.

    Attributes:
        size: Pictures per batch.
        workers: Processes that decode beside the main one.
    """

    size: int
    workers: int

    def of(self, images: Dataset[_Item]) -> Iterator[_Item]:
        """Yield the pictures in order, [B, 3, height, width] if they come alone; the last batch may be short."""
        # never more workers than batches: each costs a fork
        workers = min(self.workers, -(-len(images) // self.size))  # pyright: ignore[reportArgumentType]
        loader: DataLoader[Any] = DataLoader(images, batch_size=self.size, num_workers=workers, drop_last=False)
        yield from loader


class PatchReader:
    """Encodes the patches of samples of one split when they are asked for; they are too many to keep.

    Attributes:
        grid: Rows and columns of patches.
    """

    def __init__(self, encoder: Encoder, pairs: Pairs, batches: Batches) -> None:
        """Keep the parts; nothing is read yet.

        Args:
            encoder: A model with patches.
            pairs: The samples of the split.
            batches: How pictures are read; batches of patches are smaller.
        """
        assert encoder.grid is not None
        self.grid = encoder.grid
        self._encoder, self._pairs = encoder, pairs
        self._batches = Batches(min(batches.size, _PATCHED_AT_ONCE), batches.workers)

    def read(self, rows: Sequence[int]) -> Iterator[PatchFeatures]:
        """Encode some samples.

        Args:
            rows: Their places in the split.

        Yields:
            Patches of a few samples at a time, in the order of ``rows``.
        """
        images = _SizedImages(self._pairs, self._encoder.preprocess_array)
        yield from self._encoder.encode_patches(self._batches.of(Subset(images, rows)))


class PictureReader:
    """Encodes the pictures of one split again, altered in some way; nothing is kept."""

    def __init__(self, encoder: Encoder, pairs: Pairs, batches: Batches, stage: Stage) -> None:
        """Keep the parts; nothing is read yet.

        Args:
            encoder: The model.
            pairs: The samples of the split.
            batches: How pictures are read.
            stage: For progress.
        """
        self._encoder, self._pairs, self._batches, self._stage = encoder, pairs, batches, stage

    def encode(self, alter: Alteration, what: str, rows: Sequence[int] | None = None) -> ImageFeatures:
        """Encode pictures of the split after an alteration.

        Args:
            alter: The alteration.
            what: Its name, for the progress.
            rows: Places in the split of the pictures wanted, at least one; None for all of them.

        Returns:
            Features in the order of ``rows``, or of the split, [n, D] and [n, W].
        """
        rows = range(len(self._pairs)) if rows is None else rows
        images = Subset(_AlteredImages(self._pairs, self._encoder.preprocess_array, alter), rows)
        with self._stage.progress(f"encode {what}", len(rows), "image") as progress:
            found, pooled = _joined(self._encoder.encode_images(self._batches.of(images)), True, progress)
        assert pooled is not None
        return ImageFeatures(found, pooled)


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
        needs: Split role -> ``"images"``, ``"pooled"``, ``"captions"``, ``"further_captions"``, ``"metadata"``,
            ``"caption_sets"``, ``"patches"`` and ``"pictures"`` as wanted; images always come.
        batches: How pictures are read.
        stage: For progress.
        params: The params.yaml, which names the store when shards are URLs.

    Returns:
        The features.
    """
    dataset = read_dataset(raw)
    splits = [(facts, *split_pairs(raw, valid, facts, params)) for facts in dataset_splits(dataset, needs, raw)]
    # texts come first: where their encoder is missing, no picture is read in vain
    texts = [
        _split_texts(pairs, encoder.text if "captions" in needs[facts.role] else None) for facts, pairs, _ in splits
    ]
    further = [
        read_further_captions(raw, valid, facts.name, pairs.cache, stage)
        if "further_captions" in needs[facts.role]
        else {}
        for facts, pairs, _ in splits
    ]
    found: list[SplitFeatures] = []
    with stage.progress("encode", sum(len(pairs) for _, pairs, _ in splits), "image") as progress:
        for number, (facts, pairs, class_ids) in enumerate(splits):
            wanted = needs[facts.role]
            encoded = encoder.encode_images(batches.of(Images(pairs, encoder.preprocess_array)))
            image_features, pooled_features = _joined(encoded, "pooled" in wanted, progress)
            found.append(
                SplitFeatures(
                    facts.name,
                    facts.role,
                    facts.suite,
                    pairs.keys.to_pylist(),
                    image_features,
                    class_ids,
                    *texts[number],
                    pooled_features,
                    further[number],
                    _metadata(pairs, facts.name) if "metadata" in wanted else (),
                    PatchReader(encoder, pairs, batches) if "patches" in wanted and encoder.grid else None,
                    PictureReader(encoder, pairs, batches, stage) if "pictures" in wanted else None,
                    _caption_sets(pairs, facts.name) if "caption_sets" in wanted else (),
                )
            )
    return Features(tuple(found), dataset_classes(dataset), encoder.text, dataset_languages(dataset))


def _joined(batches: Iterable[ImageFeatures], keep_pooled: bool, progress: Progress) -> tuple[Array, Array | None]:
    """Join the features of batches, those before the projection only if they are to be kept."""
    parts: list[Array] = []
    pooled: list[Array] = []
    for batch in batches:
        parts.append(batch.image_features)
        if keep_pooled:
            pooled.append(batch.pooled_features)
        progress.advance(len(batch.image_features))
    return np.concatenate(parts), np.concatenate(pooled) if pooled else None


def _metadata(pairs: Pairs, split: str) -> list[Mapping[str, Any]]:
    """Return what KEY.json says of every sample."""
    reader = MetadataReader(pairs, metadata_places(pairs, split))
    return [reader.read(position) for position in range(len(pairs))]


def _caption_sets(pairs: Pairs, split: str) -> list[list[str]]:
    """Return the captions that KEY.json lists for each sample, or its only one; nothing where no sample has a list."""
    listed = [caption_list(facts) for facts in _metadata(pairs, split)]
    if not any(listed):
        return []
    return [own or [str(caption)] for own, caption in zip(listed, pairs.captions.to_pylist(), strict=True)]


def _split_texts(pairs: Pairs, text: TextSide | None) -> tuple[list[str], Array | None, npt.NDArray[np.int64] | None]:
    """Return distinct captions, their features and the row of each sample's; nothing where no side is given."""
    if text is None:
        return [], None, None
    texts, rows = distinct(pairs.captions.to_pylist())
    return texts, text.encode(texts), rows
