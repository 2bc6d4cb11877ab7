"""An export whose text is frozen: the trained image side, and the encoder that made the rows it was trained on."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from assets.errors import DataError, message
from assets.features.config import FacetFeatures
from assets.text_rows import TextFacts
from assets.unit import unit
from evaluation.prompt_texts import PromptTexts
from evaluation.sides import Array, ImageFeatures, Query, checked
from evaluation.text_queries import Computing, TextQueries
from training.models.frozen_export import FrozenTextExport, load_export
from training.models.lexical import LexicalModel


class FrozenTextImages:
    """Tower and head.

    Attributes:
        preprocess: Picture -> tensor [3, height, width].
        grid: Rows and columns of patches.
    """

    def __init__(self, export: FrozenTextExport, device: torch.device) -> None:
        self.preprocess = export.preprocess
        rows, columns = export.model.visual.grid_size
        self.grid: tuple[int, int] = (rows, columns)
        self._model, self._device = export.model, device

    @torch.inference_mode()
    def encode(self, images: torch.Tensor) -> ImageFeatures:
        """Encode one batch of preprocessed pictures; pooled features are the mean patch token before the head."""
        found = self._model.image_pass(images.to(self._device, non_blocking=True))
        pooled = found.image_token_features.mean(dim=1)  # [B, W]
        return ImageFeatures(checked(functional.normalize(found.image_features, dim=-1)), checked(pooled))

    @torch.inference_mode()
    def encode_patches(self, images: torch.Tensor) -> Array:
        """Encode the patches of one batch of preprocessed pictures, unit norm, [B, N, D]."""
        patches = self._model.encode_patches(images.to(self._device, non_blocking=True))
        return checked(functional.normalize(patches, dim=-1))


class FrozenTexts:
    """Texts as training saw them: unit rows, without their slot's mean where the export centres.

    A caption is asked what the first slot of training asks (its wrapper and facet). A long text is asked what the
    trained slots of the caption with the long wrapper ask, if training saw any, and gets the mean of these rows.

    Attributes:
        slots: Names of the slots that training saw, CAPTION/FACET.
        lexicon: The words that features are made of, for a lexical model; None for others.
    """

    def __init__(
        self,
        facts: TextFacts,
        queries: TextQueries,
        place: Path,
        encode_rows: Callable[[Array], Array] | None = None,
        prompts: PromptTexts | None = None,
    ) -> None:
        """Match the slots of an export with the questions behind them.

        Args:
            facts: Slots, means and words.
            queries: Embeds texts.
            place: The model folder, for errors.
            encode_rows: Turns rows [..., D] into unit features; None where they are features.
            prompts: Encodes texts in place of both, where the language model was trained with the model.

        Raises:
            DataError: The slots are not those of the features that the export names.
        """
        self.slots, self.lexicon = tuple(facts.names), facts.lexicon
        self._facts, self._queries, self._encode_rows, self._prompts = facts, queries, encode_rows, prompts
        groups = enumerate(queries.groups)
        self._asked = [(number, facet) for number, group in groups for facet in group.facets]  # by slot
        named = tuple((queries.groups[number].caption, facet) for number, facet in self._asked)
        if named != facts.slots:
            what = f"{place} names other slots than the features it was trained on"
            raise DataError(message(what, facts.slots, named, "train it anew"))
        self._long = self._long_slots() or facts.chosen[:1]

    def _long_slots(self) -> tuple[int, ...]:
        config = self._queries.config
        if not isinstance(config, FacetFeatures):
            return ()
        long = [slot for slot in self._facts.chosen if config.texts[self._asked[slot][0]].wrapper == "long"]
        return tuple(slot for slot in long if self._asked[slot][0] == self._asked[long[0]][0])

    def encode(self, captions: Sequence[str], query: Query = "caption") -> Array:
        """Encode texts, see :meth:`evaluation.sides.TextSide.encode`."""
        return unit(self._features(captions, self._slots_for(query)).mean(axis=1))

    def encode_slots(self, captions: Sequence[str]) -> Array:
        """Encode texts once for every slot, [len(captions), len(slots), D]."""
        return self._features(captions, self._facts.chosen)

    def _features(self, captions: Sequence[str], slots: Sequence[int]) -> Array:
        if self._prompts is not None:
            return self._prompts.encode(captions)[:, None]
        rows = self._rows(captions, slots)
        return rows if self._encode_rows is None else self._encode_rows(rows)

    def count_cut(self, captions: Sequence[str], query: Query = "caption") -> int:
        """Count the distinct texts that are longer than the encoder's limit."""
        if self._prompts is not None:
            return self._prompts.count_cut(captions)
        slots = self._slots_for(query)
        return self._queries.count_cut(captions, self._asked[slots[0]][0], [self._asked[slot][1] for slot in slots])

    def _slots_for(self, query: Query) -> tuple[int, ...]:
        return self._long if query == "long" else self._facts.chosen[:1]

    def _rows(self, captions: Sequence[str], slots: Sequence[int]) -> Array:
        """Return one row per text and slot, [len(captions), len(slots), D]; one pass serves the slots of a caption."""
        columns: dict[int, list[int]] = {}
        for column, slot in enumerate(slots):
            columns.setdefault(self._asked[slot][0], []).append(column)
        rows = np.empty((len(captions), len(slots), self._facts.width), dtype=np.float32)
        for group, places in columns.items():
            facets = [self._asked[slots[column]][1] for column in places]
            rows[:, places] = self._queries.rows(captions, group, facets)
        if self._facts.center:
            assert self._facts.slot_means is not None
            rows = unit(rows - self._facts.slot_means[list(slots)])
        blank = np.argwhere(np.linalg.norm(rows, axis=-1) == 0)
        if len(blank):
            what = f"the frozen text has no direction for {captions[blank[0, 0]]!r} in slot {self._name(slots, blank)}"
            raise DataError(message(what, fix="drop that text, or train without this slot"))
        return rows

    def _name(self, slots: Sequence[int], blank: np.ndarray) -> str:
        return "/".join(self._facts.slots[slots[int(blank[0, 1])]])


def load_frozen_text(folder: Path, computing: Computing) -> tuple[FrozenTextImages, FrozenTexts]:
    """Load an export.

    Args:
        folder: The model folder.
        computing: Device, and how the text's encoder runs.

    Raises:
        ConfigError: The language model was trained with the model, and is not there.
        DataError: The export is damaged, or does not say how its text was made.
    """
    export = load_export(folder, computing.device)
    queries = TextQueries(export.text.features or {}, folder, computing)

    @torch.inference_mode()
    def encode_rows(rows: Array) -> Array:
        return checked(export.model.encode_rows(torch.from_numpy(rows).to(computing.device)))

    prompts = None
    if isinstance(export.model, LexicalModel) and export.model.lora is not None:
        prompts = PromptTexts(export.model, export.model.lora, computing.device)
    return FrozenTextImages(export, computing.device), FrozenTexts(export.text, queries, folder, encode_rows, prompts)
