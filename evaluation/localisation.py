"""Localisation: do the patches of an object resemble its name, on pictures whose objects have boxes?

Ground truth are boxes out of KEY.json, not outlines: even a perfect model does not reach 1 in PatchDis. Two models on
one data set can be compared, but not with results on segmented pictures. ``patchdis_*`` is described in
``patchdis.py``; theta of ``bg`` is chosen on every other picture, and the rest is scored. ``pointing`` takes each class
of a picture: is the centre of the patch that resembles its text most inside a box of that class? ``word_pointing`` is
the same for models over words, with the weight of the name's last word in the patch's unit vector instead of a text.
``chance_*`` is what patches without any content get: classes drawn at random, and the share of patch centres that lie
inside the boxes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from assets.section import Section
from assets.unit import unit
from evaluation.base import Interval, Result
from evaluation.intervals import Bootstrap
from evaluation.patchdis import (
    Classes,
    choose_theta,
    mean_iou,
    overlaps,
    predict_all,
    predict_background,
    predict_present,
    present_classes,
    similarities,
    with_background,
)
from evaluation.picture_intervals import ratio, score_interval
from evaluation.ranking import STEP
from evaluation.retrieval import draw_order
from evaluation.scene_objects import SceneObject, Size, box_mask, inside, scene_objects, shown_boxes
from evaluation.sides import Array, PatchFeatures
from evaluation.true_words import WordForms
from evaluation.word_measures import places_of
from evaluation.zero_shot import ZeroShotConfig, fill

if TYPE_CHECKING:
    from evaluation.features import Features, PatchReader, SplitFeatures

_THETAS = 24
Floats = npt.NDArray[np.float64]


class LocalisationConfig(ZeroShotConfig):
    """Settings of the evaluator ``localisation``."""

    templates: tuple[str, ...] = Field(default=("a {name}",), min_length=1)
    """Prompts with ``{name}``, ``{plural}`` or ``{group}`` in them; their features are averaged per class."""
    images: int = Field(default=500, ge=2)
    """Pictures per split at most, chosen by a hash of their keys."""


@dataclass(frozen=True, slots=True)
class Names:
    """What objects are compared with.

    Attributes:
        vectors: Text features of the classes, unit norm, [C, D].
        classes: Name of a class in lower case -> its row.
        lexicon: Word in lower case -> its places, for a model over words, otherwise empty.
        forms: Singular and plural, for a model over words.
    """

    vectors: Array
    classes: Mapping[str, int]
    lexicon: Mapping[str, Sequence[int]]
    forms: WordForms | None

    def head_places(self, name: str) -> list[int]:
        """Return the words of the lexicon that are the last word of a name; none for a model that has no words."""
        if self.forms is None:
            return []
        return sorted(place for form in self.forms.of_head(name) for place in self.lexicon.get(form, ()))


@dataclass(frozen=True, slots=True)
class Found:
    """What was seen on the pictures of a split; hits, chances and number of what was pointed at are [I, 3].

    Attributes:
        everywhere: Best class of each patch, [I, g, g].
        present: Best class among those in the picture, [I, g, g].
        best: Similarity of the best class, [I, g, g].
        labels: Class of each pixel, [I, H, W].
        pointing: By the classes' texts.
        word_pointing: By words.
    """

    everywhere: Classes
    present: Classes
    best: Floats
    labels: Classes
    pointing: Floats
    word_pointing: Floats


def point(found: Floats, boxes: npt.NDArray[np.float64], shown: Size) -> tuple[float, float]:
    """Ask whether the best patch has its centre in one of some boxes.

    Args:
        found: Similarity of each patch, [g, g].
        boxes: In pixels of what the model got, [n, 4].
        shown: Height and width of that.

    Returns:
        The hit, for tied patches its expectation, and the share of all patches whose centre is in a box.
    """
    rows, columns = found.shape
    within: npt.NDArray[np.bool_] = np.logical_or.reduce(inside(boxes, rows, columns, shown))
    quantised = np.rint(found / STEP)
    return float(within[np.equal(quantised, quantised.max())].mean()), float(within.mean())


class Localisation:
    """The evaluator ``localisation``: PatchDis in three modes, and pointing."""

    Config: ClassVar[type[Section]] = LocalisationConfig
    needs: ClassVar[Mapping[str, frozenset[str]]] = {"retrieval": frozenset({"images", "metadata", "patches"})}

    def __init__(self, config: LocalisationConfig, bootstrap: Bootstrap) -> None:
        self._config = config
        self._bootstrap = bootstrap

    def run(self, features: "Features") -> Result:
        """Find the objects of every split of the role ``retrieval`` that has boxes.

        Args:
            features: Patches and KEY.json of the splits, the classes, and the text side.

        Returns:
            Metrics and intervals per suite; notes on what has no patches, classes or boxes.
        """
        result = Result(metrics={}, intervals={})
        splits = features.with_role("retrieval")
        if splits and not features.classes:
            result.notes.append("dataset.json lists no zero-shot classes, so there is nothing to look for")
        elif splits and all(split.patches is None for split in splits):
            result.notes.append("this model has no patches that lie in the space of texts, so nothing is localised")
        else:
            names: Names | None = None
            for split in splits:
                rows = self._rows(split, {facts.name.casefold() for facts in features.classes})
                if split.patches is None or len(rows) < 2:
                    why = "fewer than two pictures with a box of a zero-shot class in KEY.json"
                    result.notes.append(f"split {split.split} has {why}, so nothing is localised in it")
                    continue
                names = names or self._names(features)
                found = _look(split, split.patches, rows, names)
                result.metrics[split.suite], result.intervals[split.suite] = self._score(found, len(names.classes))
        return result

    def _rows(self, split: "SplitFeatures", known: set[str]) -> list[int]:
        """Choose pictures that show some class."""
        shows = [any(item.name.casefold() in known for item in scene_objects(told)) for told in split.metadata]
        return [row for row in draw_order(split.keys) if row < len(shows) and shows[row]][: self._config.images]

    def _names(self, features: "Features") -> Names:
        templates, classes, lexicon = self._config.templates, features.classes, features.lexicon
        prompts = [fill(template, facts) for facts in classes for template in templates]
        vectors = features.text.encode(prompts).reshape(len(classes), len(templates), -1)
        return Names(
            unit(vectors.mean(axis=1)),
            {facts.name.casefold(): row for row, facts in enumerate(classes)},
            places_of(lexicon.words) if lexicon else {},
            WordForms() if lexicon else None,
        )

    def _score(self, found: Found, num_classes: int) -> tuple[dict[str, float | int], dict[str, Interval]]:
        metrics: dict[str, float | int] = {"num_images": len(found.labels)}
        intervals: dict[str, Interval] = {}
        for name, (model, chance) in self._masks(found, num_classes).items():
            score = float(mean_iou(model.sum(axis=0)))
            if np.isnan(score):  # objects that the crop cut away
                continue
            metrics[f"patchdis_{name}"] = score
            metrics[f"chance_patchdis_{name}"] = float(mean_iou(chance.sum(axis=0)))
            intervals[f"patchdis_{name}"] = score_interval(model, mean_iou, self._bootstrap)
        for name, told in (("pointing", found.pointing), ("word_pointing", found.word_pointing)):
            hits, chance, number = told.sum(axis=0)
            if number:
                metrics |= {name: hits / number, f"chance_{name}": chance / number, f"num_{name}": int(number)}
                intervals[name] = score_interval(told[:, [0, 2]], ratio, self._bootstrap)
        return metrics, intervals

    def _masks(self, found: Found, num_classes: int) -> dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Count the pixels of each mode for the model and for random classes, [pictures, 3, C] each."""
        rng = np.random.default_rng(self._bootstrap.seed)
        shape = found.everywhere.shape
        anything = rng.integers(0, num_classes, shape, dtype=np.int32)
        shown = present_classes(found.labels, num_classes)
        drawn = np.stack([rng.choice(np.flatnonzero(row) if row.any() else [0], shape[1:]) for row in shown])
        masks = {
            "all": tuple(overlaps(part, found.labels, num_classes) for part in (found.everywhere, anything)),
            "present": tuple(overlaps(part, found.labels, num_classes) for part in (found.present, drawn)),
        }
        chosen, scored = slice(0, None, 2), slice(1, None, 2)  # pictures are in the order of their hash
        thetas = np.quantile(found.best[chosen], np.linspace(0, 1, _THETAS)).tolist()
        theta = choose_theta(found.everywhere[chosen], found.best[chosen], found.labels[chosen], num_classes, thetas)
        background = predict_background(found.everywhere[scored], found.best[scored], theta, num_classes)
        anything = rng.integers(0, num_classes + 1, background.shape, dtype=np.int32)
        labels = with_background(found.labels[scored], num_classes)
        masks["bg"] = tuple(
            overlaps(part, labels, num_classes + 1)[..., :num_classes] for part in (background, anything)
        )
        return {name: (model, chance) for name, (model, chance) in masks.items()}


def _look(split: "SplitFeatures", patches: "PatchReader", rows: Sequence[int], names: Names) -> Found:
    """Compare the patches of some pictures with the classes, a few pictures at a time."""
    parts: list[Found] = []
    left = list(rows)
    for batch in patches.read(rows):
        here, left = left[: len(batch.sizes)], left[len(batch.sizes) :]
        objects = [scene_objects(split.metadata[row]) for row in here]
        parts.append(_look_at(batch, objects, patches.grid, names))
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in Found.__dataclass_fields__}
    return Found(**joined)


def _look_at(batch: PatchFeatures, objects: list[list[SceneObject]], grid: Size, names: Names) -> Found:
    """Reduce the patches of one batch, which may be as long as a vocabulary, to what is scored."""
    cells = batch.patch_features.reshape(len(objects), *grid, -1)  # [B, g, g, D]
    found = similarities(cells, names.vectors)  # [B, g, g, C]
    masks: list[Classes] = []
    pointing, word_pointing = np.zeros((len(objects), 3)), np.zeros((len(objects), 3))
    for picture, items in enumerate(objects):
        boxes = shown_boxes([item.box for item in items], batch.sizes[picture], batch.shown)
        classes = [names.classes.get(item.name.casefold(), -1) for item in items]
        masks.append(box_mask(boxes, classes, batch.shown))
        for number in sorted(set(classes) - {-1}):
            own = boxes[[place for place, other in enumerate(classes) if other == number]]
            pointing[picture] += (*point(found[picture, ..., number], own, batch.shown), 1)
        for name in sorted({item.name for item in items}):
            if places := names.head_places(name):
                own = boxes[[place for place, item in enumerate(items) if item.name == name]]
                weights = cells[picture][..., places].max(axis=-1)
                word_pointing[picture] += (*point(weights, own, batch.shown), 1)
    labels = np.stack(masks)
    present = predict_present(found, present_classes(labels, len(names.vectors)))
    return Found(predict_all(found), present, found.max(axis=-1), labels, pointing, word_pointing)
