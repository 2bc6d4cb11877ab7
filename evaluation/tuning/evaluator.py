"""Tuning: what can be made of a frozen encoder by a linear probe, by an MLP, and by NMTune.

Three heads are trained on the same random crops, encoded once, with the same batches and steps: a linear one, a
residual MLP, and the same MLP with NMTune's regularisers. NMTune is worth its name only where it beats the plain MLP,
so the difference of the two has an interval of its own, over the same images. Suite ``in_domain`` is cross-validated by
the folds of ``probing.py``; the other suites are scored by heads trained on all of ``in_domain``. The images that are
scored are seen whole, as ``zero_shot`` sees them.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from assets.errors import DataError, message
from assets.section import Section
from evaluation.base import Interval, Result
from evaluation.class_scores import class_labels, label_hits
from evaluation.intervals import Bootstrap
from evaluation.linear_probe import quantised, validation_part
from evaluation.probing import SOURCE, Labels, deal_folds
from evaluation.tuning.config import PRESETS, TuningConfig

if TYPE_CHECKING:
    from evaluation.features import Features, SplitFeatures
    from evaluation.tuning.fit import Arm

Array = npt.NDArray[np.float32]
ARMS = ("lp", "mlp", "nmtune")
_DIFFERENCES = (("mlp", "lp"), ("nmtune", "lp"), ("nmtune", "mlp"))


@dataclass(frozen=True, slots=True)
class RandomCrop:
    """Cuts a random part of a picture and resizes it to a square; drawn from (seed, view, key).

    Attributes:
        crop_area: Range of its share of the image.
        flip: Probability of mirroring it.
        seed: Of the draws.
        view: Which of the views.
    """

    crop_area: tuple[float, float]
    flip: float
    seed: int
    view: int

    def __call__(self, pixels: npt.NDArray[np.uint8], key: str) -> npt.NDArray[np.uint8]:
        """Cut one picture.

        Args:
            pixels: RGB, [height, width, 3].
            key: Of the sample.

        Returns:
            [s, s, 3], with s the shorter side.
        """
        # imported late: params.yaml is checked without loading PyTorch
        from training.data.transforms import SampleDraws, apply_crop, draw_crop
        from training.data.views import ViewsConfig

        height, width = pixels.shape[:2]
        ranges = ViewsConfig(crop_area=self.crop_area, flip=self.flip)
        crop = draw_crop(ranges, width, height, SampleDraws(self.seed, self.view, key))
        return apply_crop(pixels, crop, min(height, width))


@dataclass(frozen=True, slots=True)
class _Images:
    """Labelled images: ``views`` [V, n, D] to learn from, ``whole`` [n, D] to be scored, ``labels`` [n]."""

    keys: Sequence[str]
    views: Array
    whole: Array
    labels: Labels
    num_classes: int

    def take(self, chosen: npt.NDArray[np.bool_]) -> "_Images":
        rows = np.flatnonzero(chosen)
        keys = [self.keys[row] for row in rows.tolist()]
        return _Images(keys, self.views[:, rows], self.whole[rows], self.labels[rows], self.num_classes)


@dataclass(slots=True)
class _Scored:
    """What the heads of every arm and seed make of m images.

    Attributes:
        hits: Expected hits of the first guess, [arms, seeds, m].
        covariances: The covariance term of z, not weighted, summed over parts; [arms, seeds].
        parts: How many were summed.
    """

    hits: npt.NDArray[np.float64]
    covariances: npt.NDArray[np.float64]
    parts: int = 0


@dataclass(slots=True)
class _Record:
    """What goes into ``tuning.json`` beside the settings."""

    chosen: dict[str, Any] = field(default_factory=dict[str, Any])
    histories: dict[str, Any] = field(default_factory=dict[str, Any])


class Tuning:
    """The evaluator ``tuning``: top-1 of three heads, their differences, and the covariance of what they make."""

    Config: ClassVar[type[Section]] = TuningConfig
    needs: ClassVar[Mapping[str, frozenset[str]]] = {"zero_shot": frozenset({"images", "pooled", "pictures"})}

    def __init__(self, config: TuningConfig, bootstrap: Bootstrap) -> None:
        self._config = config
        self._bootstrap = bootstrap

    def run(self, features: "Features") -> Result:
        """Train the heads on the images of ``in_domain`` and score them on every suite.

        Args:
            features: Image features, readers of pictures, and the classes.

        Returns:
            Metrics and intervals per suite, and the document ``tuning``: settings, what the validation part chose,
            losses per epoch, and scores per seed. Nothing but a note where there is no suite ``in_domain``.

        Raises:
            DataError: Images and classes of a split do not cover each other, a loss is not finite, or no class has an
                image to choose settings with.
        """
        splits = {split.suite: split for split in features.with_role("zero_shot")}
        if SOURCE not in splits:
            return Result({}, {}, notes=[f"tuning: left out, no split of role zero_shot has the suite {SOURCE}"])
        # classes that lack images must fail before any picture is encoded again
        labels = {suite: class_labels(split, features.classes, least=2) for suite, split in splits.items()}
        images = self._read(splits[SOURCE], labels[SOURCE], len(features.classes))
        record = _Record()
        scored = {SOURCE: self._cross_validate(images, record)}
        if others := [suite for suite in splits if suite != SOURCE]:
            tested = {suite: (self._whole(splits[suite]), labels[suite]) for suite in others}
            scored |= self._train_and_score(images, tested, "transfer", record)
        result = Result({}, {})
        for suite, found in scored.items():
            result.metrics[suite], result.intervals[suite] = self._summarise(found, suite)
            result.metrics[suite] |= {"chance_top1": 1 / images.num_classes, "num_images": found.hits.shape[2]}
        result.documents["tuning"] = {
            "settings": self._config.model_dump(mode="json"),
            "chosen": record.chosen,
            "top1": {
                suite: dict(zip(ARMS, found.hits.mean(axis=2).tolist(), strict=True)) for suite, found in scored.items()
            },
            "losses": record.histories,
        }
        return result

    def _whole(self, split: "SplitFeatures") -> Array:
        chosen = split.pooled_features if self._config.features == "pooled" else split.image_features
        assert chosen is not None
        return chosen

    def _read(self, split: "SplitFeatures", labels: Labels, num_classes: int) -> _Images:
        """Encode the views of the images to learn from."""
        config = self._config
        assert split.pictures is not None
        views: list[Array] = []
        for view in range(config.views):
            # the views of every recipe and seed are the same: they depend on the key and the number of the view only
            crop = RandomCrop(config.crop_area, config.flip, 0, view)
            encoded = split.pictures.encode(crop, f"view {view + 1} of {config.views}")
            views.append(encoded.pooled_features if config.features == "pooled" else encoded.image_features)
        return _Images(split.keys, np.stack(views), self._whole(split), labels, num_classes)

    def _cross_validate(self, images: _Images, record: _Record) -> _Scored:
        """Score every image by heads that learned from the other folds."""
        most = int(np.median(np.bincount(images.labels)))
        fold = deal_folds(images.keys, images.labels, min(self._config.folds, most))
        shape = (len(ARMS), len(self._config.seeds))
        found = _Scored(np.empty((*shape, len(fold))), np.zeros(shape))
        for number in np.unique(fold):
            test = fold == number
            tested = {SOURCE: (images.whole[test], images.labels[test])}
            part = self._train_and_score(images.take(~test), tested, f"fold_{number}", record)[SOURCE]
            found.hits[:, :, test] = part.hits
            found.covariances += part.covariances
            found.parts += 1
        return found

    def _train_and_score(
        self, train: _Images, tested: Mapping[str, tuple[Array, Labels]], part: str, record: _Record
    ) -> dict[str, _Scored]:
        """Train every arm with every seed, and score images [m, D] of each suite by their labels [m]."""
        from evaluation.tuning.fit import adapted_features, fit_head
        from evaluation.tuning.losses import covariance_loss

        seeds = self._config.seeds
        shape = (len(ARMS), len(seeds))
        found = {
            suite: _Scored(np.empty((*shape, len(labels))), np.zeros(shape), 1) for suite, (_, labels) in tested.items()
        }
        for row, (name, candidates) in enumerate(self._candidates().items()):
            arm = self._choose(train, candidates, part)
            added = arm.regularisers and arm.regularisers.model_dump(mode="json")
            record.chosen.setdefault(part, {})[name] = {"lr": arm.lr, "regularisers": added}
            for column, seed in enumerate(seeds):
                head, history = fit_head(train.views, train.labels, train.num_classes, arm, seed)
                if column == 0:
                    record.histories.setdefault(part, {})[name] = history
                for suite, (whole, labels) in tested.items():
                    found[suite].hits[row, column] = _hits(head, whole, labels)
                    found[suite].covariances[row, column] = float(covariance_loss(adapted_features(head, whole)))
        return found

    def _candidates(self) -> dict[str, list["Arm"]]:
        """Return the settings that each arm chooses from."""
        from evaluation.tuning.fit import Arm

        config = self._config
        linear = config.head.model_copy(update={"hidden_layers": 0})
        regularisers = PRESETS[config.preset]
        pairs = itertools.product(config.nmtune_lrs, config.strengths)
        return {
            "lp": [Arm(linear, config.fit, lr) for lr in config.linear_lrs],
            "mlp": [Arm(config.head, config.fit, lr) for lr in config.mlp_lrs],
            "nmtune": [Arm(config.head, config.fit, lr, regularisers.scaled(strength)) for lr, strength in pairs],
        }

    def _choose(self, train: _Images, candidates: Sequence["Arm"], part: str) -> "Arm":
        """Return the settings that do best on a validation part of the training images, the first of equals."""
        from evaluation.tuning.fit import fit_head

        if len(candidates) == 1:
            return candidates[0]
        held = validation_part(train.keys, train.labels, self._config.validation_share)
        if not held.any():
            what = f"tuning, {part}: no class has two training images, one to fit and one to choose settings with"
            fix = "use more images per class or more folds, or give every learning rate and strengths one value"
            raise DataError(message(what, fix=fix))
        kept, judged = train.take(~held), train.take(held)
        scores = [
            _hits(
                fit_head(kept.views, kept.labels, kept.num_classes, arm, self._config.seeds[0]).head,
                judged.whole,
                judged.labels,
            ).mean()
            for arm in candidates
        ]
        return candidates[int(np.argmax(np.round(scores, 9)))]

    def _summarise(self, found: _Scored, suite: str) -> tuple[dict[str, float | int], dict[str, Interval]]:
        """Average over seeds and images; differences are paired, image by image."""
        prefix = "" if suite == SOURCE else "transfer_"
        by_arm: dict[str, npt.NDArray[np.float64]] = {}  # arm -> [m]
        for arm, hits in zip(ARMS, found.hits.mean(axis=1), strict=True):
            by_arm[arm] = hits
        columns = {f"{prefix}{arm}_top1": hits for arm, hits in by_arm.items()}
        for one, other in _DIFFERENCES:
            columns[f"num_{prefix}{one}_minus_{other}"] = by_arm[one] - by_arm[other]
        bounds = self._bootstrap.means(np.stack(list(columns.values()), axis=1)).tolist()
        metrics: dict[str, float | int] = {name: float(scores.mean()) for name, scores in columns.items()}
        intervals = {name: (low, high) for name, (low, high) in zip(columns, bounds, strict=True)}
        for arm, covariance in zip(ARMS, found.covariances.mean(axis=1) / found.parts, strict=True):
            metrics[f"num_cov_{arm}"] = float(covariance)
        return metrics, intervals


def _hits(head: Any, whole: Array, labels: Labels) -> npt.NDArray[np.float64]:
    """Return the expected hit of the first guess for images [m, D], [m]."""
    from evaluation.tuning.fit import log_probabilities

    return label_hits(quantised(log_probabilities(head, whole)), labels, (1,))[:, 0]
