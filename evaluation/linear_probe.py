"""Linear probe: how well a logistic regression on frozen image features tells the classes apart.

The published protocol (Radford et al. 2021, appendix A.3, https://arxiv.org/abs/2103.00020): L-BFGS on features before
the projection, no augmentation, the inverse penalty ``c`` swept on a validation part of the training images, then a
refit on all of them. Unlike zero-shot, it needs no text tower; it says what the image tower knows, not what captions
can ask for. Ours differs in what it learns from: the folds of a suite (``probing.py``), a few images per class, so
compare its numbers between our runs and not with published ones. Features are scaled to mean 0 and variance 1 per
dimension over the training images, so that one grid of ``c`` fits every model.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from assets.errors import DataError, message
from assets.section import Section
from evaluation.base import Result
from evaluation.class_scores import label_hits
from evaluation.intervals import Bootstrap
from evaluation.probing import Labelled, Labels, ProbeConfig, Scores, class_places, run_probe
from evaluation.ranking import STEP

if TYPE_CHECKING:
    from evaluation.features import Features
    from evaluation.logistic import Fit, Floats, Scaling

# log-probabilities below this are as good as impossible; whole steps of STEP above it fit into int32
_LOWEST = -2000.0
# slopes that end a fit: the mean loss is then within about 1e-5 of its minimum, 1e-4 in the sweep, which only compares
_FLAT, _NEARLY_FLAT = 3e-4, 1e-3


class LinearProbeConfig(ProbeConfig):
    """Settings of the evaluator ``linear_probe``."""

    shots: int | None = Field(ge=2, le=1_000_000)
    """Most training images per class (few-shot); null for all. Cost grows with it."""
    c_values: tuple[float, ...] = Field(min_length=1)
    """Inverse strengths of the penalty, ascending; the best on the validation part is used, the smaller of equals. One
    alone needs no validation part, and so no more than two images per class."""
    validation_share: float = Field(gt=0, lt=1)
    """Share of each class's training images that chooses among ``c_values``; at least one, and never all."""
    iterations: int = Field(ge=1, le=100_000)
    """Most iterations of L-BFGS per regression."""

    @field_validator("c_values")
    @classmethod
    def _check_order(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if values[0] <= 0 or any(left >= right for left, right in pairwise(values)):
            raise ValueError(f"c_values must be above 0 and ascend, got {', '.join(map(str, values))}")
        return values


class LinearProbe:
    """The evaluator ``linear_probe``: top-1, top-5 and mean per class, within each suite and from ``in_domain``."""

    Config: ClassVar[type[Section]] = LinearProbeConfig
    needs: ClassVar[Mapping[str, frozenset[str]]] = {"zero_shot": frozenset({"images", "pooled"})}

    def __init__(self, config: LinearProbeConfig, bootstrap: Bootstrap) -> None:
        self._config = config
        self._bootstrap = bootstrap

    def run(self, features: "Features") -> Result:
        """Probe the image features of every split of the role ``zero_shot``.

        Args:
            features: Image features of the splits, and the classes.

        Returns:
            Metrics and intervals per suite, and the document ``linear_probe`` with the ``c`` of every probe.
        """
        chosen: dict[str, dict[str, Any]] = {}

        def classify(train: Labelled, tested: npt.NDArray[np.float32], suite: str, part: str) -> Scores:
            if self._config.shots is not None:
                train = train.take(class_places(train.keys, train.labels, "shots") < self._config.shots)
            # imported late, here and below: params.yaml is checked without loading PyTorch
            from evaluation.logistic import log_probabilities

            scaling, found, c = self._train(train, suite)
            chosen.setdefault(suite, {})[part] = {"c": c, "converged": found.converged, "num_train": len(train.keys)}
            return quantised(log_probabilities(scaling.apply(tested), found.weights))

        result = run_probe(features, self._config, self._bootstrap, classify)
        result.documents["linear_probe"] = {"c_values": self._config.c_values, "probes": chosen}
        return result

    def _train(self, train: Labelled, suite: str) -> "tuple[Scaling, Fit, float]":
        """Return the scaling, the regression on all training images, and the ``c`` that the validation part chose."""
        from evaluation.logistic import Scaling, Stop, fit

        config = self._config
        scaling = Scaling.of(train.features)
        inputs = scaling.apply(train.features)
        c, start = config.c_values[0], np.zeros((inputs.shape[1], train.num_classes))
        if len(config.c_values) > 1:
            held = validation_part(train.keys, train.labels, config.validation_share)
            if not held.any():
                raise DataError(
                    message(
                        f"suite {suite}: no class has two training images, one to fit and one to choose c with",
                        fix="use more images per class or more folds, or give c_values one value",
                    )
                )
            c, start = self._sweep(inputs, train.labels, held, train.num_classes)
        return scaling, fit(inputs, train.labels, c, start, Stop(config.iterations, _FLAT)), c

    def _sweep(
        self, inputs: "Floats", labels: Labels, held: npt.NDArray[np.bool_], num_classes: int
    ) -> "tuple[float, Floats]":
        """Return the ``c`` that does best on the held part, and its weights, a good start for the refit."""
        from evaluation.logistic import Stop, fit_path, log_probabilities

        config = self._config
        stop = Stop(config.iterations, _NEARLY_FLAT)
        fits = list(fit_path(inputs[~held].astype(np.float32), labels[~held], num_classes, config.c_values, stop))
        scores = [
            label_hits(quantised(log_probabilities(inputs[held], found.weights)), labels[held], (1,)).mean()
            for found in fits
        ]
        best = int(np.argmax(np.round(scores, 9)))  # the first of equals
        return config.c_values[best], fits[best].weights


def quantised(logs: npt.NDArray[np.float64]) -> Scores:
    """Return log-probabilities in whole multiples of ``STEP``, so that ties are ties."""
    return np.rint(np.maximum(logs, _LOWEST) / STEP).astype(np.int32)


def validation_part(keys: Sequence[str], labels: Labels, share: float) -> npt.NDArray[np.bool_]:
    """Choose the images that choose ``c``: a share of every class, at least one where one is left to fit.

    Args:
        keys: Sample keys, [n].
        labels: Class of each sample, [n].
        share: Of each class's images.

    Returns:
        Mask, [n].
    """
    counts = np.bincount(labels)
    wanted = np.minimum(counts - 1, np.maximum(1, (counts * share).astype(np.int64)))
    return class_places(keys, labels, "validation") < wanted[labels]
